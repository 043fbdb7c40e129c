import io
import os
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch

from trainers.checkpoint import Checkpoint, Progress, RunState, decode, encode
from trainers.checkpoint.random_state import random_state
from trainers.config import PpoConfig
from trainers.errors import CheckpointError
from trainers.rollout import EpisodeStatistics


class Counter:
    """A learner that knows a tensor and a number."""

    def __init__(self) -> None:
        self.weight, self.count = torch.zeros(3), 0

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.weight, self.count = state["weight"], state["count"]


def run_state() -> RunState:
    learner, episodes = Counter(), EpisodeStatistics(2)
    learner.weight, learner.count = torch.randn(3), 7
    done_TN = np.array([[False, True], [True, False]])
    episodes.add(np.array([[1.0, 2.0], [3.0, 4.0]]), done_TN, np.ones((2, 2), bool))
    return RunState(learner, episodes, Progress(update=4, timesteps=2048, training_s=1.5))


def captured(state: RunState) -> Checkpoint:
    return state.capture("counter", PpoConfig(), {"run_id": None, "client_uuid": "abc"})


def test_package_that_is_not_installed_costs_nobody_their_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code on PYTHONPATH has no version."""
    monkeypatch.setattr("trainers.checkpoint.state.PACKAGES", ("numpy", "nothing-of-this-name"))
    assert captured(run_state()).versions == {"numpy": np.__version__, "nothing-of-this-name": "not installed"}


def test_run_goes_on_from_where_it_was() -> None:
    state = run_state()
    checkpoint = decode(encode(captured(state)), "x")
    other = RunState(Counter(), EpisodeStatistics(2))
    other.restore(checkpoint)
    assert isinstance(other.learner, Counter)
    assert isinstance(state.learner, Counter)
    assert torch.equal(other.learner.weight, state.learner.weight)
    assert other.learner.count == 7
    assert other.progress == Progress(4, 2048, 1.5)
    assert other.episodes.summary() == state.episodes.summary()


def test_episodes_under_way_do_not_outlive_their_environments() -> None:
    state = run_state()
    other = RunState(Counter(), EpisodeStatistics(2))
    other.episodes.add(np.full((3, 2), 10.0), np.zeros((3, 2), bool), np.ones((3, 2), bool))
    other.restore(captured(state))
    other.episodes.add(np.ones((1, 2)), np.ones((1, 2), bool), np.ones((1, 2), bool))
    assert list(other.episodes.returns)[-2:] == [1.0, 1.0]
    assert list(other.episodes.lengths)[-2:] == [1, 1]


def test_checkpoint_says_what_it_is_of() -> None:
    checkpoint = decode(encode(captured(run_state())), "x")
    assert (checkpoint.algorithm, checkpoint.telemetry) == ("counter", {"run_id": None, "client_uuid": "abc"})
    assert checkpoint.config == PpoConfig().model_dump(mode="json")
    assert checkpoint.versions.keys() >= {"rltelemetry", "torch", "envpool"}


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_global_generators_go_on_with_the_same_numbers() -> None:
    draws()  # leaves half a pair of gaussians waiting in two of them
    checkpoint = decode(encode(captured(run_state())), "x")
    expected = draws()
    draws()
    RunState(Counter(), EpisodeStatistics(2)).restore(checkpoint)
    assert draws() == expected


def test_state_of_the_generators_is_plain_data() -> None:
    buffer = io.BytesIO()
    torch.save(random_state(), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def saved(values: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        saved({"format": 1, "learner": Malicious()}),
        pickle.dumps(Malicious()),
        saved({"format": 1, "learner": {"weight": np.zeros(3)}}),
        b"",
        b"PK\x03\x04 nothing else",
        random.Random(0).randbytes(1000),
    ],
    ids=["malicious", "malicious pickle", "numpy", "empty", "zip", "noise"],
)
def test_anything_but_plain_data_is_refused_and_not_executed(
    content: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"some\.pt: is no checkpoint, which holds plain data only"):
        decode(content, "some.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [[1], {"format": 3}, {"format": 2}, {**vars(captured(run_state())), "format": 99}])
def test_other_formats_are_refused(values: object) -> None:
    with pytest.raises(CheckpointError, match=r"some\.pt: got a checkpoint of format .*; expected format 4\."):
        decode(saved(values), "some.pt")


def test_checkpoint_of_another_format_says_whose_it_is_and_what_to_do() -> None:
    values = {**vars(captured(run_state())), "format": 1, "versions": {"rltelemetry": "0.0.9"}}
    told = r"got a checkpoint of format 1, saved by rltelemetry 0\.0\.9; expected format 4\. Train again, or resume"
    with pytest.raises(CheckpointError, match=told):
        decode(saved(values), "some.pt")
