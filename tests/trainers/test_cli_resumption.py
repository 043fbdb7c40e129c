"""What `--resume` and `--load-model` make of a folder of checkpoints, in this process and without a server."""

import os
import resource
import signal
import threading
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from trainers.checkpoint import CheckpointFolder, Keeper, decode, encode, newest_good
from trainers.cli import ppo
from trainers.cli.algorithms import ALGORITHMS, AlgorithmEntry
from trainers.cli.folders import checkpoint_folder
from trainers.cli.resumption import read_saved
from trainers.cli.signals import Interruption, handles_signals
from trainers.config import PpoConfig
from trainers.errors import CheckpointError
from trainers.loop import _Training

SMALL = [
    *("--no-mlflow", "--device", "cpu", "--training-core.horizon", "16", "--environment.num-envs", "4"),
    *("--evaluation.eval-interval", "0", "--checkpointing.interval", "1", "--checkpointing.keep", "9"),
]
Events = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(telemetry: Any) -> Path:
    """A run of three updates."""
    assert run("--checkpointing.directory", "saved", *SMALL, num_updates=3)[0] == 0
    return Path("saved")


def run(*flags: str, num_updates: int | None = None) -> tuple[int, Events]:
    total = ["--training-core.total-timesteps", str(64 * num_updates)] if num_updates else []
    with capture_logs() as events:
        code = ppo([*flags, *total])
    return code, events


def updates(events: Events) -> list[int]:
    return [event["update"] for event in events if event["event"] == "throughput"]


def said(events: Events) -> list[str]:
    return [event["event"] for event in events]


def newest(folder: Path) -> Any:
    return decode(newest_good(folder, pytest.fail).content, "x")


def test_resumed_run_goes_on_under_the_settings_of_then(folder: Path) -> None:
    code, events = run("--no-mlflow", "--resume", str(folder), num_updates=5)
    assert code == 0
    assert updates(events) == [4, 5]
    assert newest(folder).progress["update"] == 5
    assert f"the run goes on from {folder}/update-00000003.pt" in said(events)


def test_resumed_run_goes_on_in_its_mlflow_run(folder: Path, telemetry: Any) -> None:
    telemetry.params = {}
    run("--no-mlflow", "--resume", str(folder), num_updates=4)
    assert (telemetry.fields["run_id"], telemetry.fields["client_uuid"]) == ("run-1", "client-1")
    assert telemetry.params == {}, "they are there already"
    assert telemetry.tags["resumed_at_update"] == "3"
    run("--no-mlflow", "--resume", str(folder), "--mlflow-run-id", "another", num_updates=5)
    assert telemetry.fields["run_id"] == "another"
    assert "client_uuid" not in telemetry.fields


def test_free_settings_may_change_and_are_told(folder: Path, telemetry: Any) -> None:
    flags = ["--optimization.actor-lr", "0.01", "--evaluation.num-envs", "3"]
    code, events = run("--no-mlflow", "--resume", str(folder), *flags, num_updates=4)
    assert code == 0
    assert "changed since then: optimization.actor_lr: 0.003 -> 0.01" in said(events)
    assert telemetry.tags["resumed.3.evaluation.num_envs"] == "10 -> 3"
    assert newest(folder).config["optimization"]["actor_lr"] == 0.01


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--training-core.gamma", "0.5"], "training_core.gamma: 0.98 -> 0.5"),
        (["--architecture.hidden-sizes", "8"], "architecture.hidden_sizes: (64, 64) -> (8,)"),
        (["--environment.task", "Acrobot-v1"], "environment.task: 'CartPole-v1' -> 'Acrobot-v1'"),
        (["--seed", "9"], "training_core.seed: 1 -> 9"),
        (["--optimization.adam-eps", "0.1"], "optimization.adam_eps: 1e-05 -> 0.1"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    folder: Path, flags: list[str], difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--no-mlflow", "--resume", str(folder), *flags, num_updates=4)[0] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert difference in message
    assert "--load-model" in message


def test_file_with_other_settings_is_refused_just_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.yaml").write_text("training_core:\n  horizon: 8\nenvironment:\n  num_envs: 4\n")
    assert run("--no-mlflow", "--config", "other.yaml", "--resume", str(folder))[0] == 2
    assert "training_core.horizon: 16 -> 8" in capsys.readouterr().err


def test_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "update-00000003.pt").write_bytes(b"x")
    code, events = run("--no-mlflow", "--resume", str(folder), num_updates=4)
    assert (code, updates(events)) == (0, [3, 4])
    assert "update-00000003.pt (its digest is wrong) cannot be used; update-00000002.pt" in capsys.readouterr().err
    assert (folder / "update-00000003.pt.damaged").exists()


def test_full_disk_costs_a_run_new_checkpoints_and_nothing_else(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (newest_good(folder, pytest.fail).path.stat().st_size // 2, hard))
    try:
        code, events = run("--no-mlflow", "--resume", str(folder), num_updates=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, updates(events)) == (0, [4, 5, 6])
    (warning,) = [text for text in said(events) if "cannot be saved" in text]
    assert warning.startswith(f"{folder}: the checkpoint of update 4 cannot be saved: File too large.")
    assert newest(folder).progress["update"] == 3
    assert updates(run("--no-mlflow", "--resume", str(folder), num_updates=4)[1]) == [4]


@pytest.mark.parametrize("content", ['{"trainer": 12', "[3]", '{"trainer": null}', "[" * 100_000])
def test_damaged_note_of_what_was_logged_is_told_and_passed_over(folder: Path, content: str) -> None:
    (folder / "emitted.json").write_text(content)
    code, events = run("--no-mlflow", "--resume", str(folder), num_updates=4)
    assert (code, updates(events)) == (0, [4])
    (warning,) = [text for text in said(events) if "emitted.json" in text]
    assert warning.startswith(f"{folder}/emitted.json: is no note of what was logged")


def stopped(monkeypatch: pytest.MonkeyPatch, in_update: int) -> Events:
    """A run that gets SIGTERM at the end of an update, and whose disk then takes longer than its patience."""
    learn, sync = _Training.learn, os.fsync

    def learn_and_ask(training: Any, update: int) -> None:
        learn(training, update)
        if update == in_update:
            signal.raise_signal(signal.SIGTERM)

    def slow_sync(descriptor: int) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        sync(descriptor)

    handles = partial(handles_signals, Interruption(patience_s=0.5))
    with monkeypatch.context() as patch, capture_logs() as events:
        patch.setattr("trainers.cli.signals.handles_signals", handles)
        patch.setattr(_Training, "learn", learn_and_ask)
        patch.setattr("os.fsync", slow_sync)
        with pytest.raises(SystemExit) as caught:
            ppo(["--checkpointing.directory", "stopped", *SMALL, "--checkpointing.interval", "1000"])
    assert caught.value.code == 143
    return events


def test_save_that_outlasts_the_patience_is_finished(telemetry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    events = stopped(monkeypatch, in_update=3)
    assert newest(Path("stopped")).progress["update"] == 3
    assert said(events)[-1] == "training stopped by a signal; go on with --resume stopped"


def test_run_that_has_saved_nothing_does_not_say_that_it_can_go_on(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeper, "is_due", lambda *_update, **_flags: False)
    assert said(stopped(monkeypatch, in_update=1))[-1] == "training stopped by a signal; nothing is saved"
    assert not Path("stopped/emitted.json").exists()


def test_nothing_to_resume_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run("--no-mlflow", "--resume", "empty")[0] == 2
    assert run("--no-mlflow", "--resume", "nowhere")[0] == 2
    assert capsys.readouterr().err.splitlines() == [
        "ppo: empty: there is no checkpoint. Give a folder that a run has saved to.",
        "ppo: nowhere: cannot be read: No such file or directory. Give a folder of checkpoints.",
    ]


def test_checkpoint_of_another_algorithm_is_refused(folder: Path) -> None:
    other = AlgorithmEntry("other", "Other", PpoConfig, ALGORITHMS["ppo"].build)
    with pytest.raises(CheckpointError, match=r"got a checkpoint of 'ppo'; expected one of 'other'. Use .* `ppo`"):
        read_saved(folder, other)


def test_configuration_of_another_version_is_refused(folder: Path) -> None:
    checkpoint = newest(folder)
    checkpoint.config["training_core"]["momentum"] = 3
    writer = CheckpointFolder(folder, keep=9)
    writer.save(4, encode(checkpoint))
    writer.close()
    with pytest.raises(CheckpointError, match=r"of another version: training_core.momentum: Extra inputs"):
        read_saved(folder, ALGORITHMS["ppo"])


def test_going_back_needs_a_folder_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "update-00000002.pt")
    assert run("--no-mlflow", "--resume", file, num_updates=4)[0] == 2
    assert "got update 2 of a run that has gone on to 3" in capsys.readouterr().err
    code, events = run("--no-mlflow", "--resume", file, "--checkpointing.directory", "branch", num_updates=4)
    assert (code, updates(events)) == (0, [3, 4])
    assert newest(Path("branch")).progress["update"] == 4
    assert newest(folder).progress["update"] == 3


def test_new_run_does_not_mix_with_another_ones_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--checkpointing.directory", str(folder), *SMALL, num_updates=1)[0] == 2
    assert f"holds another run's checkpoints; expected an empty folder. Give another one, or go on with that run: " \
        f"--resume {folder}" in capsys.readouterr().err  # fmt: skip


def test_auto_starts_and_then_goes_on(telemetry: Any) -> None:
    command = [*SMALL, "--resume", "auto", "--checkpointing.directory", "job"]
    assert updates(run(*command, num_updates=2)[1]) == [1, 2]
    assert updates(run(*command, num_updates=3)[1]) == [3]


def test_auto_starts_again_after_a_kill_between_a_first_checkpoint_and_its_digest(telemetry: Any) -> None:
    command = [*SMALL, "--resume", "auto", "--checkpointing.directory", "job"]
    assert updates(run(*command, num_updates=1)[1]) == [1]
    for digest in Path("job").glob("*.sha256"):
        digest.unlink()
    assert updates(run(*command, num_updates=2)[1]) == [1, 2]


def test_auto_needs_to_know_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--no-mlflow", "--resume", "auto")[0] == 2
    assert "Give it with --checkpointing.directory" in capsys.readouterr().err


def test_run_without_checkpoints_leaves_none(telemetry: Any, tmp_path: Path) -> None:
    assert run(*SMALL, "--checkpointing.no-save", num_updates=1)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_folder_is_named_after_the_run_and_stays_below_its_root(telemetry: Any) -> None:
    arguments = run_arguments("MetaWorld/Reach-v3")
    with checkpoint_folder("ppo", arguments) as first, checkpoint_folder("ppo", arguments) as second:
        assert first is not None
        assert second is not None
        assert first.path != second.path
        for folder in (first, second):
            assert folder.path.parent == Path("checkpoints")
            assert folder.path.name.startswith("MetaWorld-Reach-v3-ppo-20")
    with checkpoint_folder("ppo", run_arguments("../../..//x")) as folder:
        assert folder is not None
        assert folder.path.parent == Path("checkpoints")
        assert folder.path.name.startswith("x-ppo-20")


def run_arguments(task: str) -> Any:
    from trainers.cli.arguments import parse

    return parse(["--environment.task", task], ALGORITHMS["ppo"])


# --- models


def test_model_only_start_takes_the_networks_and_nothing_else(folder: Path) -> None:
    flags = ["--load-model", str(folder), "--seed", "5", "--training-core.gamma", "0.5"]
    code, events = run("--checkpointing.directory", "new", *SMALL, *flags, "--optimization.actor-lr", "1e-30",
                       "--optimization.critic-lr", "1e-30", num_updates=1)  # fmt: skip
    assert code == 0
    assert updates(events) == [1]
    assert (
        f"the run starts from the networks of {folder}/update-00000003.pt; optimisers, schedules and counts start "
        "afresh" in said(events)
    )
    old, new = newest(folder).learner, newest(Path("new")).learner
    for name, weight in old["network"].items():
        torch.testing.assert_close(new["network"][name], weight)
    assert new["num_updates"] == 1


def test_networks_of_another_shape_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--load-model", str(folder), "--architecture.hidden-sizes", "8"]
    assert run("--checkpointing.directory", "new", *SMALL, *flags, num_updates=1)[0] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "update-00000003.pt: does not fit the task and the architecture that are given" in message
    assert "size mismatch" in message


def test_resume_and_load_model_are_one_or_the_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--no-mlflow", "--resume", str(folder), "--load-model", str(folder))[0] == 2
    assert "got it beside --resume; expected one of them" in capsys.readouterr().err


# --- exact


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ([], "expected at least the 500 of the longest episode"),
        (["--environment.max-episode-steps", "17"], "expected at least the 17 of the longest episode"),
        (["--environment.task", "Catch-v0"], "expected episodes of a limited length"),
    ],
)
def test_barriers_closer_than_an_episode_are_refused(
    flags: list[str], rule: str, telemetry: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--checkpointing.exact", *flags, num_updates=1)[0] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "got 16 steps between two checkpoints (interval 1 x horizon 16)" in message
    assert rule in message
    assert not os.path.exists("checkpoints")  # noqa: PTH110


def test_barriers_as_far_apart_as_an_episode_are_accepted(telemetry: Any) -> None:
    assert run(*SMALL, "--checkpointing.exact", "--environment.max-episode-steps", "16", num_updates=2)[0] == 0
