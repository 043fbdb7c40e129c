"""A refactor that should not alter results proves it here: the losses of the first updates, against a kept trace.

A change that is meant to alter them writes a new trace, and says why in its commit:

    python tests/trainers/test_golden.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.config import PpoConfig
from trainers.envs import make_vector_env
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds

TRACE = Path(__file__).with_name("golden_ppo.json")
NUM_UPDATES = 3
NORMALIZED = {"normalize_obs": True, "normalize_reward": True, "reward_clip": 10.0}
CASES: dict[str, dict[str, Any]] = {
    "discrete": {"environment": {"task": "CartPole-v1"}},
    "continuous": {"environment": {"task": "HalfCheetah-v4"} | NORMALIZED},
    "squashed": {"environment": {"task": "Pendulum-v1"}, "architecture": {"squash_actions": True}},
    "masked": {"environment": {"task": "Maze-v0"}, "training_core": {"clip_value_loss": True}},
    "multi_discrete": {"environment": {"task": "JobShop-v0"}, "architecture": {"shared": True}},
    "image": {"environment": {"task": "Breakout-v5"}, "architecture": {"hidden_sizes": [32], "shared": True}},
}


def trace(case: dict[str, Any]) -> list[dict[str, float]]:
    core = {"horizon": 8, "num_epochs": 2, "num_minibatches": 2, "entropy_coef": 0.01, "total_timesteps": 1000}
    config = PpoConfig.model_validate(
        {
            "environment": {"num_envs": 4} | case["environment"],
            "training_core": core | case.get("training_core", {}),
            "architecture": case.get("architecture", {}),
        }
    )
    seeds, environment = spawn_seeds(1), config.environment
    env = make_vector_env(environment.task, environment.num_envs, seeds.environment, num_threads=1)
    ppo = Ppo(env.spec, config, Runtime(torch.device("cpu"), seeds))
    storage, updates = ppo.make_storage(env.num_envs), []
    for update in range(NUM_UPDATES):
        collect(ppo, env, storage, EpisodeStatistics(env.num_envs))
        updates.append(ppo.update(storage, progress=update / NUM_UPDATES)._asdict())
    return updates


@pytest.mark.parametrize("name", CASES)
def test_first_updates_are_those_of_the_trace(name: str) -> None:
    expected = json.loads(TRACE.read_text())[name]
    for update, (got, kept) in enumerate(zip(trace(CASES[name]), expected, strict=True)):
        for metric, value in kept.items():
            assert got[metric] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (update, metric)


def main() -> None:
    torch.set_num_threads(1)
    TRACE.write_text(json.dumps({name: trace(case) for name, case in CASES.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
