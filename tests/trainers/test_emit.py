from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from structlog.testing import capture_logs

from rltelemetry.schema import CATEGORY_ALIASES, RESERVED_FIELDS, STEP_FIELDS
from trainers import emit
from trainers.emit import ACTOR_KEYS, EVALUATOR_KEYS, MISC_KEYS, STAMP_KEYS, TRAINER_KEYS, Emitter, Stamp
from trainers.ppo import UpdateMetrics
from trainers.rollout import EpisodeStatistics, EpisodeSummary

STAMP = Stamp(timesteps=2048, policy_version=1)
NO_EPISODES = EpisodeStatistics(num_envs=1).summary()
EPISODES = EpisodeSummary(3, 2.0, 3.0, 1.0, 20.0, 30.0, 10.0)
METRICS = UpdateMetrics(**{name: float(number) for number, name in enumerate(UpdateMetrics._fields)})._asdict()
MISC = dict.fromkeys(MISC_KEYS, 1.0)


class NoTracer:
    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def show_progress(self, text: str) -> None:
        pass

    def commit(self, timeout_s: float) -> bool:
        return timeout_s > 0


def emitted(work: Callable[[Emitter], None]) -> dict[str, Any]:
    """The one event that `work` logs."""
    with capture_logs() as events:
        work(Emitter("ppo", NoTracer()))
    (event,) = events
    return dict(event)


def keys(event: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in event if key not in {"event", "category", "log_level", *STAMP_KEYS})


@pytest.mark.parametrize(
    ("work", "category", "name", "expected"),
    [
        (lambda emitter: emitter.trainer(STAMP, METRICS), "TRAINER", "train", TRAINER_KEYS),
        (lambda emitter: emitter.actor(STAMP, EPISODES), "ACTOR", "rollout", ACTOR_KEYS),
        (
            lambda emitter: emitter.evaluator(STAMP, "final", EPISODES, 5.0),
            "EVALUATOR",
            "evaluation",
            EVALUATOR_KEYS,
        ),
        (lambda emitter: emitter.misc(STAMP, **MISC), "MISC", "throughput", MISC_KEYS),
    ],
)
def test_each_category_has_its_fixed_keys_and_the_stamp(
    work: Callable[[Emitter], None], category: str, name: str, expected: tuple[str, ...]
) -> None:
    event = emitted(work)
    assert event["event"] == name
    assert event["category"] == category
    assert {key: event[key] for key in STAMP_KEYS} == {"timesteps": 2048, "policy_version": 1}
    assert keys(event) == expected


def test_evaluator_keys_are_the_shared_schema() -> None:
    assert set(STAMP_KEYS) | set(EVALUATOR_KEYS) == {
        "timesteps",
        "phase",
        "policy_version",
        "episodes",
        "mean_return",
        "max_return",
        "min_return",
        "episode_length_mean",
        "episode_length_max",
        "episode_length_min",
        "duration_ms",
    }


def test_keys_do_not_collide_with_what_the_contract_reserves() -> None:
    for names in (TRAINER_KEYS, ACTOR_KEYS, EVALUATOR_KEYS, set(MISC_KEYS) - {"update"}):
        assert set(names).isdisjoint(RESERVED_FIELDS | set(STEP_FIELDS) | {"level", "event", "timestamp"})


def test_stamp_decides_the_step() -> None:
    assert STEP_FIELDS[: len(STAMP_KEYS)] == STAMP_KEYS


def test_categories_are_the_contracts() -> None:
    assert {"TRAINER", "ACTOR", "EVALUATOR"} <= CATEGORY_ALIASES.keys()


def test_values_stand_under_their_own_keys() -> None:
    event = emitted(lambda emitter: emitter.evaluator(STAMP, "training", EPISODES, 5.0))
    assert {key: event[key] for key in EVALUATOR_KEYS} == {
        "phase": "training",
        "episodes": 3,
        "mean_return": 2.0,
        "max_return": 3.0,
        "min_return": 1.0,
        "episode_length_mean": 20.0,
        "episode_length_max": 30.0,
        "episode_length_min": 10.0,
        "duration_ms": 5.0,
    }


def test_actor_learning_rate_is_the_schemas_learning_rate() -> None:
    event = emitted(lambda emitter: emitter.trainer(STAMP, METRICS))
    assert event["learning_rate"] == METRICS["actor_lr"]
    assert "actor_lr" not in event


def test_metric_that_an_algorithm_does_not_have_is_none_and_its_own_follow() -> None:
    event = emitted(lambda emitter: emitter.trainer(STAMP, {"actor_loss": 1.0, "ess": 2.0}))
    assert keys(event) == (*TRAINER_KEYS, "ess")
    assert event["entropy"] is None


def test_before_the_first_episode_actor_says_zero_and_none() -> None:
    event = emitted(lambda emitter: emitter.actor(STAMP, NO_EPISODES))
    assert event["episodes"] == 0
    assert [event[key] for key in ACTOR_KEYS[1:]] == [None] * 6


def test_misc_refuses_a_key_outside_the_schema() -> None:
    with pytest.raises(AssertionError, match="speed"):
        Emitter("ppo", NoTracer()).misc(STAMP, **MISC, speed=1.0)


@pytest.mark.parametrize(
    "work", [lambda emitter: emitter.started(task="a"), lambda emitter: emitter.finished(task="a")]
)
def test_first_and_last_event_carry_no_step(work: Callable[[Emitter], None]) -> None:
    assert set(emitted(work)).isdisjoint(STEP_FIELDS)


def test_logger_is_named_after_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    monkeypatch.setattr(emit.structlog, "get_logger", names.append)
    Emitter("spo", NoTracer())
    assert names == ["trainers.spo"]


def test_steps_that_the_run_has_already_are_left_out() -> None:
    stored = {"trainer": 100, "actor": 50}
    emitter = Emitter("fake", NoTracer(), stored)
    with capture_logs() as events:
        for timesteps in (50, 100, 101):
            emitter.trainer(Stamp(timesteps, 1), {})
            emitter.actor(Stamp(timesteps, 1), NO_EPISODES)
    seen = [(event["category"], event["timesteps"]) for event in events]
    assert seen == [("ACTOR", 100), ("TRAINER", 101), ("ACTOR", 101)]
    assert emitter.emitted == {"trainer": 101, "actor": 101}
    assert stored == {"trainer": 100, "actor": 50}
