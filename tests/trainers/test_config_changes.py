from typing import Any

import pytest

from trainers.config import Change, PpoConfig, RunConfig, SpoConfig, changes, is_free


def changed(section: str, **values: Any) -> list[Change]:
    fields = PpoConfig().model_dump()
    fields[section] |= values
    return changes(PpoConfig(), PpoConfig(**fields))


def test_equal_configurations_differ_in_nothing() -> None:
    assert changes(PpoConfig(), PpoConfig()) == []


def test_differences_are_named_setting_by_setting() -> None:
    found = changed("training_core", gamma=0.5, horizon=64)
    assert found == [Change("training_core.horizon", 32, 64), Change("training_core.gamma", 0.98, 0.5)]
    assert str(found[1]) == "training_core.gamma: 0.98 -> 0.5"


def test_options_of_a_task_are_one_setting() -> None:
    (change,) = changed("environment", options={"frame_skip": 2})
    assert str(change) == "environment.options: {} -> {'frame_skip': 2}"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("evaluation", {"num_envs": 3}),
        ("hardware", {"torch_threads": 2}),
        ("logging", {"run_name": "x"}),
        ("checkpointing", {"interval": 7}),
        ("training_core", {"total_timesteps": 1_000_000}),
        ("optimization", {"actor_lr": 0.5}),
        ("environment", {"num_threads": 2}),
    ],
)
def test_how_a_run_is_run_may_change(section: str, values: dict[str, Any]) -> None:
    assert all(map(is_free, changed(section, **values)))


@pytest.mark.parametrize("model", [PpoConfig, SpoConfig])
def test_every_learning_rate_may_change(model: type[RunConfig]) -> None:
    optimization = type(model().optimization)
    rates = [name for name in optimization.model_fields if name.endswith("_lr")]
    assert {"actor_lr", "critic_lr", "anneal_lr"} <= set(rates)
    assert ("dual_lr" in rates) == (model is SpoConfig)
    assert [name for name in rates if not is_free(Change(f"optimization.{name}", 1e-3, 1e-4))] == []


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("environment", {"num_envs": 128}),
        ("training_core", {"seed": 2}),
        ("training_core", {"clip_coef": 0.3}),
        ("architecture", {"activation": "relu"}),
        ("optimization", {"adam_eps": 0.1}),
    ],
)
def test_what_a_run_is_may_not(section: str, values: dict[str, Any]) -> None:
    assert not any(map(is_free, changed(section, **values)))
