"""Runs of the real command that are killed, resumed, stopped, and compared with one that was left alone."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import pytest
import torch

from rltelemetry.testing import FakeMlflow, MlflowServer
from rltelemetry.types import MetricPoint
from trainers.checkpoint import Checkpoint, decode, newest_good
from trainers.cli.signals import REPEAT_S

pytestmark = pytest.mark.timeout(300)  # several processes a test, each of which loads torch

NUM_UPDATES = 30
SMALL = [
    *("--training-core.horizon", "32", "--environment.num-envs", "16", "--environment.max-episode-steps", "64"),
    *("--training-core.total-timesteps", str(NUM_UPDATES * 512), "--device", "cpu", "--evaluation.eval-interval", "3"),
    *("--evaluation.num-eval-episodes", "2", "--evaluation.num-envs", "2", "--architecture.hidden-sizes", "256", "256"),
    *("--environment.normalize-obs", "--environment.normalize-reward", "--environment.num-groups", "2"),
    *("--hardware.compile", "none"),
]
EXACT = [*SMALL, "--checkpointing.exact", "--checkpointing.interval", "2"]


class Command:
    """One process of `ppo`, or another algorithm's command."""

    def __init__(self, folder: Path, *flags: str, uri: str | None = None, algorithm: str = "ppo") -> None:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder.parent / "state")}
        where = ["--no-mlflow"] if uri is None else ["--logging.tracking-uri", uri, "--logging.exit-timeout-s", "20"]
        argv = [sys.executable, "-m", "trainers", algorithm, *where, *flags]
        self._process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ, cwd=folder.parent
        )
        self.text = ""

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.text += line
            if line.startswith("{"):
                yield json.loads(line)

    def until_update(self, update: int) -> "Command":
        """Wait for an update; the process is some way into the next ones then."""
        assert any(event.get("update", 0) >= update for event in self.events()), self.text
        return self

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def send(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self.end()

    def end(self) -> int:
        list(self.events())
        assert self._process.stderr is not None
        self._process.stderr.close()
        return self._process.wait(timeout=60)


def completed(folder: Path, *flags: str, uri: str | None = None, algorithm: str = "ppo") -> str:
    command = Command(folder, *flags, uri=uri, algorithm=algorithm)
    code = command.end()
    assert code == 0, command.text
    return command.text


def last(folder: Path) -> Checkpoint:
    found = newest_good(folder, pytest.fail)
    return decode(found.content, str(found.path))


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two states differ in any bit."""
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [at]
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{at} keys"]
        return keys + [text for key in one for text in differences(one[key], other[key], f"{at}.{key}")]
    if isinstance(one, list | tuple):
        sizes = [] if len(one) == len(other) else [f"{at} length"]
        pairs = enumerate(zip(one, other, strict=False))
        return sizes + [text for index, (a, b) in pairs for text in differences(a, b, f"{at}[{index}]")]
    return [] if one == other else [f"{at}: {one} {other}"]


def assert_same_run(one: Checkpoint, other: Checkpoint) -> None:
    for name in ("learner", "episodes", "random"):
        assert differences(getattr(one, name), getattr(other, name), name) == []
    assert (one.progress["update"], one.progress["timesteps"]) == (
        other.progress["update"],
        other.progress["timesteps"],
    )


def left_behind(state: Path) -> list[MetricPoint]:
    """What killed processes had put into their spools and not sent: the next `sync` sends it."""
    points: list[MetricPoint] = []
    for path in state.rglob("*.spool"):
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT body, taken FROM rows WHERE kind = 'points'").fetchall()
        points += [MetricPoint(*point) for body, taken in rows for point in json.loads(body)[taken:]]
    return points


def curves(server: MlflowServer, state: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of the only run, by key; one that is there and also waits to be sent is one."""
    (run,) = server.runs()
    by_key: dict[str, list[tuple[int, float]]] = {}
    for point in {*server.points(run.run_id), *left_behind(state)}:
        by_key.setdefault(point.key, []).append((point.step, point.value))
    return {key: sorted(points) for key, points in by_key.items() if not key.startswith("system/")}


class Ended(NamedTuple):
    """A run that has come to its end."""

    checkpoint: Checkpoint
    curves: dict[str, list[tuple[int, float]]]
    status: str


def run_to_the_end(folder: Path, kills: list[int]) -> Ended:
    """Train; kill the process each time that it has come to one of these updates, and resume."""
    start = [*EXACT, "--checkpointing.directory", str(folder)]
    resume = ["--resume", str(folder)]
    with FakeMlflow() as server:
        for number, update in enumerate(kills):
            command = Command(folder, *(resume if number else start), uri=server.uri).until_update(update)
            assert command.send(signal.SIGKILL) == -signal.SIGKILL
        completed(folder, *(resume if kills else start), uri=server.uri)
        (run,) = server.runs()
        return Ended(last(folder), curves(server, folder.parent / "state"), run.status)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return run_to_the_end(tmp_path_factory.mktemp("undisturbed") / "checkpoints", [])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return run_to_the_end(tmp_path_factory.mktemp("killed") / "checkpoints", [5, 17])


def test_killed_run_ends_bit_for_bit_as_an_undisturbed_one(killed: Ended, undisturbed: Ended) -> None:
    assert_same_run(killed.checkpoint, undisturbed.checkpoint)


def test_curves_of_a_killed_run_have_no_gap_and_no_step_twice(killed: Ended, undisturbed: Ended) -> None:
    assert len(killed.curves["trainer/actor_loss"]) == NUM_UPDATES
    for key, points in undisturbed.curves.items():
        found = killed.curves[key]
        assert [step for step, _ in found] == [step for step, _ in points], key
        if not key.endswith(("_ms", "steps_per_second")):
            assert found == points, key
    assert killed.curves.keys() == undisturbed.curves.keys()
    assert killed.status == undisturbed.status == "FINISHED"


OTHERS = [("SIGUSR1", 138), ("SIGHUP", 129), ("SIGINT", 130)]
LONG = [*SMALL, "--training-core.total-timesteps", "1000000000", "--checkpointing.interval", "1000000"]


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), *(pytest.param(*case, marks=pytest.mark.faults) for case in OTHERS)]
)
def test_signal_saves_the_run_and_it_goes_on_in_the_same_curves(tmp_path: Path, name: str, code: int) -> None:
    folder = tmp_path / "checkpoints"
    with FakeMlflow() as server:
        first = Command(folder, *LONG, "--checkpointing.directory", str(folder), uri=server.uri).until_update(4)
        assert first.send(getattr(signal, name)) == code
        (killed,) = server.runs()
        saved = last(folder)
        num_updates = saved.progress["update"] + 3
        total = ["--training-core.total-timesteps", str(num_updates * 512)]
        text = completed(folder, "--resume", str(folder), *total, uri=server.uri)
        steps = [step for step, _ in curves(server, tmp_path / "state")["trainer/entropy"]]
    assert killed.status == "KILLED"
    assert f"--resume {folder}" in first.text
    assert len(steps) == len(set(steps)) == num_updates
    assert f"goes on from {folder}/update-{saved.progress['update']:08d}.pt" in text
    assert f"changed since then: training_core.total_timesteps: 1000000000 -> {total[1]}" in text


def test_second_ctrl_c_ends_a_run_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    slow = ["--training-core.num-epochs", "1000"]
    command = Command(folder, *LONG, *slow, "--checkpointing.directory", str(folder))
    next(event for event in command.events() if event["event"] == "training starts")
    command.interrupt()
    sleep(REPEAT_S + 0.1)  # sooner, it would be taken for the first one, passed on by a launcher
    asked_at = monotonic()
    code = command.send(signal.SIGINT)
    assert code in {130, -signal.SIGINT}
    assert monotonic() - asked_at < 5.0  # at once, on a machine that may be five times slower


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_run_killed_at_ten_random_moments_ends_the_same(tmp_path: Path, undisturbed: Ended) -> None:
    moments = sorted(random.Random(os.getpid()).sample(range(3, NUM_UPDATES - 1), 10))
    ended = run_to_the_end(tmp_path / "checkpoints", moments)
    assert_same_run(ended.checkpoint, undisturbed.checkpoint)
    assert ended.curves["trainer/actor_loss"] == undisturbed.curves["trainer/actor_loss"], moments


SPO = [
    *("--training-core.horizon", "16", "--environment.num-envs", "4", "--environment.max-episode-steps", "32"),
    *("--training-core.total-timesteps", "768", "--device", "cpu", "--evaluation.eval-interval", "3"),
    *("--evaluation.num-eval-episodes", "2", "--evaluation.num-envs", "2", "--hardware.compile", "none"),
    *("--spo.batch-size", "32", "--spo.replay-size", "256", "--architecture.hidden-sizes", "16"),
    *("--checkpointing.exact", "--checkpointing.interval", "2"),
]


@pytest.mark.faults
def test_killed_run_of_spo_ends_bit_for_bit_as_an_undisturbed_one(tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    completed(alone, *SPO, "--checkpointing.directory", str(alone), algorithm="spo")
    command = Command(killed, *SPO, "--checkpointing.directory", str(killed), algorithm="spo")
    assert command.until_update(5).send(signal.SIGKILL) == -signal.SIGKILL
    completed(killed, "--resume", str(killed), algorithm="spo")
    assert_same_run(last(killed), last(alone))
