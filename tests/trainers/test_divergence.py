from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from trainers.checkpoint import decode, newest_good
from trainers.cli import ppo, spo
from trainers.divergence import MAX_IN_A_ROW, DivergenceGuard, check_finite
from trainers.envs import Step
from trainers.errors import DivergenceError
from trainers.ppo import Ppo
from trainers.rollout import RolloutStorage
from trainers.spo import Spo


class Run:
    """A run whose updates diverge as told, and what became of it."""

    def __init__(self, policy: Literal["stop", "skip", "rollback"], has_checkpoint: bool = True) -> None:
        self.happened: list[str] = []
        self.complaints: list[str] = []
        self._has_checkpoint = has_checkpoint
        self._guard = DivergenceGuard(policy, self._go_back, self.complaints.append)

    def update(self, *, diverges: bool) -> None:
        with self._guard.around_update(lambda: self.happened.append("anew")):
            if diverges:
                raise DivergenceError("got nan.")
            self.happened.append("learnt")

    def _go_back(self) -> bool:
        self.happened.append("back")
        return self._has_checkpoint


def test_stop_lets_it_through() -> None:
    with pytest.raises(DivergenceError, match=r"got nan\.$"):
        Run("stop").update(diverges=True)


def test_skip_leaves_the_update_out_and_starts_new_episodes() -> None:
    run = Run("skip")
    for diverges in (False, True, False):
        run.update(diverges=diverges)
    assert run.happened == ["learnt", "anew", "learnt"]
    assert run.complaints == ["got nan. The update is left out."]


def test_rollback_goes_on_from_the_last_checkpoint() -> None:
    run = Run("rollback")
    run.update(diverges=True)
    assert run.happened == ["back", "anew"]
    assert run.complaints == ["got nan. Training goes on from the last checkpoint."]


def test_rollback_before_the_first_checkpoint_only_skips() -> None:
    run = Run("rollback", has_checkpoint=False)
    run.update(diverges=True)
    assert run.complaints == ["got nan. The update is left out. (No checkpoint yet.)"]


def test_divergence_that_does_not_end_ends_the_run() -> None:
    run = Run("skip")
    for _ in range(MAX_IN_A_ROW - 1):
        run.update(diverges=True)
    with pytest.raises(DivergenceError, match=r"got nan\. That was the case 10 times in a row"):
        run.update(diverges=True)


def test_only_what_comes_in_a_row_is_counted() -> None:
    run = Run("skip")
    for update in range(5 * MAX_IN_A_ROW):
        run.update(diverges=update % MAX_IN_A_ROW > 0)
    assert run.happened.count("learnt") == 5


def test_other_errors_are_not_its_business() -> None:
    run = Run("skip")
    with pytest.raises(RuntimeError), run._guard.around_update(lambda: None):
        raise RuntimeError("defect")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_that_is_not_finite_is_named_with_its_update(value: float) -> None:
    with pytest.raises(DivergenceError, match=rf"^update 3: got actor_loss {value}; expected finite numbers\."):
        check_finite(3, {"entropy": 0.5, "actor_loss": value})


def test_number_that_is_undefined_in_sound_updates_is_no_divergence() -> None:
    check_finite(3, {"actor_loss": 1e30, "explained_variance": float("nan")})
    with pytest.raises(DivergenceError, match="got explained_variance -inf"):
        check_finite(3, {"explained_variance": float("-inf")})


# --- with the real command

SMALL = [
    *("--no-mlflow", "--device", "cpu", "--training-core.horizon", "16", "--environment.num-envs", "4"),
    *("--training-core.total-timesteps", "256", "--evaluation.eval-interval", "0", "--checkpointing.interval", "1"),
]


def poison_reward(monkeypatch: pytest.MonkeyPatch, in_update: int) -> None:
    """The simulation itself pays NaN once."""
    record = RolloutStorage.record
    num_calls = 0

    def recorded(self: RolloutStorage, t: int, envs: slice, step: Step) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 16 * in_update:
            step.reward[step.valid] = np.nan
        record(self, t, envs, step)

    monkeypatch.setattr(RolloutStorage, "record", recorded)


def poison_loss(monkeypatch: pytest.MonkeyPatch, in_update: int, learner: Any = Ppo) -> None:
    """A reward that is finite, and whose square is not."""
    update = learner.update
    num_calls = 0

    def updated(self: Any, storage: RolloutStorage, progress: float) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == in_update:
            storage.reward.fill_(1e30)
        return update(self, storage, progress)

    monkeypatch.setattr(learner, "update", updated)


def run(folder: Path, policy: str, command: Any = ppo) -> tuple[int, list[Any]]:
    flags = ["--checkpointing.directory", str(folder), "--checkpointing.on-divergence", policy]
    with capture_logs() as events:
        code = command([*SMALL, *flags])
    return code, list(events)


@pytest.mark.parametrize("poison", [poison_reward, poison_loss])
def test_run_that_diverges_ends_with_code_1_and_its_last_good_checkpoint(
    poison: Any, telemetry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, in_update=3)
    code, _ = run(tmp_path, "stop")
    assert code == 1
    assert "expected finite numbers" in capsys.readouterr().err
    newest = newest_good(tmp_path, pytest.fail)
    assert newest.update == 2
    assert_finite(decode(newest.content, "x").learner)


@pytest.mark.parametrize("poison", [poison_reward, poison_loss])
@pytest.mark.parametrize(
    ("policy", "outcome"),
    [("skip", "The update is left out."), ("rollback", "Training goes on from the last checkpoint.")],
)
def test_run_that_puts_up_with_it_goes_on_to_its_end(
    poison: Any, policy: str, outcome: str, telemetry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, in_update=3)
    code, events = run(tmp_path, policy)
    assert code == 0
    (warning,) = [event["event"] for event in events if event["log_level"] == "warning"]
    assert warning.endswith(outcome)
    assert [event["update"] for event in events if event["event"] == "throughput"] == [1, 2, 4]
    newest = newest_good(tmp_path, pytest.fail)
    assert newest.update == 4
    assert_finite(decode(newest.content, "x").learner)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_search_learns_on_without_the_rollout_that_diverged(
    policy: str, telemetry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_loss(monkeypatch, in_update=3, learner=Spo)
    code, events = run(tmp_path, policy, spo)
    assert code == 0
    assert [event["update"] for event in events if event["event"] == "throughput"] == [1, 2, 4]
    replay = decode(newest_good(tmp_path, pytest.fail).content, "x").learner["own"]["replay"]
    assert replay["num_added"] == 3
    assert float(replay["experience"]["reward"].max()) <= 1.0


def assert_finite(state: Any) -> None:
    if isinstance(state, torch.Tensor):
        assert torch.isfinite(state).all()
    elif isinstance(state, dict):
        for value in state.values():
            assert_finite(value)
