"""`eval` and `export` on checkpoints of short runs."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from structlog.testing import capture_logs

from trainers.cli import ppo
from trainers.cli.algorithms import ALGORITHMS
from trainers.cli.policies import opened_policy
from trainers.envs import EnvGroup

SMALL = [
    *("--no-mlflow", "--device", "cpu", "--training-core.horizon", "16", "--environment.num-envs", "4"),
    *("--training-core.total-timesteps", "64", "--evaluation.eval-interval", "0"),
]


@pytest.fixture
def folder(telemetry: Any, tmp_path: Path) -> Path:
    return trained(tmp_path / "saved")


def trained(folder: Path, *flags: str) -> Path:
    with capture_logs():
        assert ppo([*SMALL, "--checkpointing.directory", str(folder), *flags]) == 0
    return folder


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


# --- eval


def test_evaluation_says_what_it_has_run_and_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ppo(["eval", "--checkpoint", str(folder), "--episodes", "3"]) == 0
    title, result = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{folder}/update-00000001.pt: CartPole-v1 after 1 updates, ")
    assert result.startswith("3 episodes: mean return ")


def test_evaluation_can_be_read_by_programs_and_repeats_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--checkpoint", str(folder / "update-00000001.pt"), "--episodes", "30", "--json"]
    results = []
    for seed in ("1", "1", "2"):
        assert ppo([*command, "--seed", seed]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["episodes"] == 30
    assert results[0] == results[1] != results[2]


def frames_of(file: Path) -> int:
    if file.suffix == ".mp4":
        return int(importlib.import_module("imageio_ffmpeg").count_frames_and_secs(file)[0])
    with importlib.import_module("imageio.v2").get_reader(file) as reader:
        pictures = list(reader)
    assert (pictures[0] != pictures[-1]).any()
    return len(pictures)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_film_shows_one_episode(folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / name
    assert ppo(["eval", "--checkpoint", str(folder), "--episodes", "1", "--video", str(file)]) == 0
    *_, episodes, film = capsys.readouterr().out.splitlines()
    episode_return = float(film.rpartition(" ")[2])
    assert f"mean return {episode_return:g} " in episodes
    num_frames = int(episode_return) + 1  # a picture of the start, and one after each step
    assert f"one episode, {num_frames} frames" in film
    assert (
        frames_of(file) == num_frames if name == "film.mp4" else 1 < frames_of(file) <= num_frames
    )  # GIF joins equals
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "saved"]


@pytest.mark.parametrize(
    ("file", "message"),
    [("film.avi", "expected a name that ends in .mp4 or .gif"), ("nowhere/film.mp4", "expected a folder that exists")],
)
def test_film_that_cannot_be_written_is_refused_at_once(
    file: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo(["eval", "--checkpoint", "never read", "--video", str(tmp_path / file)]) == 2
    assert message in capsys.readouterr().err


def test_film_without_its_packages_is_code_3_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "imageio_ffmpeg")
    assert ppo(["eval", "--checkpoint", "never read", "--video", str(tmp_path / "film.mp4")]) == 3
    assert "pip install 'rltelemetry[video]'" in capsys.readouterr().err


def test_folder_without_checkpoints_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["eval"], ["export", str(tmp_path / "policy.onnx")]):
        assert ppo([*command, "--checkpoint", str(tmp_path)]) == 2
        assert "there is no checkpoint" in capsys.readouterr().err


def test_environments_of_an_evaluation_and_a_film_are_closed(
    folder: Path, tmp_path: Path, open_envs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    command = ["eval", "--checkpoint", str(folder), "--episodes", "1", "--video", str(tmp_path / "film.gif")]
    assert ppo(command) == 0
    assert open_envs == []
    num_open = []

    def broken(self: EnvGroup) -> NoReturn:
        num_open.append(len(open_envs))
        raise RuntimeError("no picture")

    monkeypatch.setattr(EnvGroup, "render", broken)
    with pytest.raises(RuntimeError, match="no picture"):
        ppo(command)
    assert (num_open, open_envs) == ([2], [])


# --- export

TASKS = {
    "CartPole-v1": ["--architecture.shared"],
    "Pendulum-v1": ["--environment.normalize-obs"],
    "Maze-v0": [],
}


@pytest.mark.parametrize("task", TASKS)
def test_exported_policy_acts_as_the_original(
    task: str, telemetry: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = trained(tmp_path / "saved", "--environment.task", task, *TASKS[task])
    file = tmp_path / "policy.onnx"
    assert ppo(["export", str(file), "--checkpoint", str(folder)]) == 0
    assert "same actions on 256 observations" in capsys.readouterr().out
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with opened_policy(ALGORITHMS["ppo"], folder, "cpu", num_envs=7) as policy:
        obs, act = policy.env.reset(), policy.algorithm.deterministic_policy()
        for num_rows in (1, 7):
            (action,) = session.run(None, {"obs": obs[:num_rows]})
            best = act(obs[:num_rows], np.zeros(num_rows, int))
            np.testing.assert_allclose(action, best, rtol=1e-4, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["algorithm"], facts["task"], facts["update"]) == ("ppo", task, "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.onnx", "saved"]


def test_export_that_acts_otherwise_is_not_written(
    folder: Path,
    tmp_path: Path,
    open_envs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from torch import nn

    from trainers.networks import GreedyPolicy
    from trainers.ppo import Ppo

    right, asked = Ppo.greedy_policy, []

    def right_once(self: Ppo) -> nn.Module:
        """For what is exported, and wrong for what that is compared with."""
        asked.append(self)
        policy = right(self)
        return policy if len(asked) == 1 else GreedyPolicy(self.network, lambda params: 1 - params.argmax(-1))

    monkeypatch.setattr(Ppo, "greedy_policy", right_once)
    assert ppo(["export", str(tmp_path / "policy.onnx"), "--checkpoint", str(folder)]) == 2
    assert "Nothing is written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert open_envs == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_export_without_its_packages_is_code_3_with_the_pip_command(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, package)
    assert ppo(["export", "policy.onnx", "--checkpoint", "never read"]) == 3
    assert "pip install 'rltelemetry[export]'" in capsys.readouterr().err


def test_export_to_nowhere_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert ppo(["export", "nowhere/policy.onnx", "--checkpoint", "never read"]) == 2
    assert "expected a folder that exists" in capsys.readouterr().err


def test_missing_flag_is_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ppo"])
    for command in ("eval", "export"):
        with pytest.raises(SystemExit) as caught:
            ppo([command])
        assert caught.value.code == 2
        assert f"ppo {command} --help" in capsys.readouterr().err
