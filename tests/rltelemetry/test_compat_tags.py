"""The rule by which other libraries' names become categories and fields."""

import subprocess
import sys

import pytest

from rltelemetry.compat.tags import Tags
from rltelemetry.extract import metric_key


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        # CleanRL
        ("losses/value_loss", "trainer/value_loss"),
        ("losses/explained_variance", "trainer/explained_variance"),
        ("charts/learning_rate", "trainer/learning_rate"),
        ("charts/actor_learning_rate", "trainer/actor_learning_rate"),
        ("charts/episodic_return", "actor/episodic_return"),
        ("charts/avg_episodic_length", "actor/avg_episodic_length"),
        ("charts/SPS", "misc/SPS"),
        ("eval/episodic_return", "evaluator/episodic_return"),
        # Stable-Baselines3
        ("train/policy_gradient_loss", "trainer/policy_gradient_loss"),
        ("rollout/ep_rew_mean", "actor/ep_rew_mean"),
        ("eval/mean_reward", "evaluator/mean_reward"),
        ("time/fps", "misc/fps"),
        # others
        ("TRAIN/Loss", "trainer/Loss"),
        ("Loss/critic/q1", "trainer/critic/q1"),
        ("td_loss", "trainer/td_loss"),
        ("ep_len", "actor/ep_len"),
        ("policy/approx-kl", "misc/policy/approx-kl"),
        ("perf/gpu", "misc/perf/gpu"),
        ("temperature", "misc/temperature"),
        ("scalar", "misc/scalar"),
    ],
)
def test_tag_becomes_the_key_of_its_category(tag: str, key: str) -> None:
    assert metric_key(*Tags().place(tag)) == key


def test_two_tags_never_share_a_key_and_each_keeps_its_own() -> None:
    tags = Tags()
    first = tags.place("losses/value")
    second = tags.place("train/value")
    assert metric_key(*first) == "trainer/value"
    assert metric_key(*second) == "trainer/train/value"
    assert [tags.place("losses/value"), tags.place("train/value")] == [first, second]


@pytest.mark.parametrize(
    "tag", ["time/timesteps", "charts/update", "train/step", "global_step", "misc/event", "train/"]
)
def test_field_is_never_taken_for_the_step_nor_for_a_reserved_name(tag: str) -> None:
    _, field = Tags().place(tag)
    assert field not in {"timesteps", "policy_version", "step", "global_step", "update", "event", ""}


def test_importing_the_adapters_loads_no_library_but_our_own() -> None:
    heavy = {"torch", "tensorboard", "stable_baselines3", "gymnasium", "numpy", "mlflow", "httpx"}
    script = f"import sys, rltelemetry.compat; print(sorted({heavy} & set(sys.modules)))"
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"
