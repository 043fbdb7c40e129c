"""A refactor that should not alter results proves it here: the losses of the first updates, against a kept trace.

A change that is meant to alter them writes a new trace, and says why in its commit:

    python tests/trainers/test_golden.py spo
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.config import PpoConfig, SpoConfig
from trainers.envs import make_vector_env
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds
from trainers.spo import Spo

NUM_UPDATES = 3
NORMALIZED = {"normalize_obs": True, "normalize_reward": True, "reward_clip": 10.0}
PPO_CORE = {"horizon": 8, "num_epochs": 2, "num_minibatches": 2, "entropy_coef": 0.01, "total_timesteps": 1000}
SMALL_SEARCH = {
    "training_core": {"horizon": 8, "total_timesteps": 1000},
    "architecture": {"hidden_sizes": (32, 32)},
    "spo": {"replay_size": 64, "batch_size": 16, "replay_ratio": 2.0},
}
REFERENCE = ("readout", "resampler", "terminals", "lineage", "baseline")

Case = dict[str, dict[str, Any]]

PPO_CASES: dict[str, Case] = {
    "discrete": {"environment": {"task": "CartPole-v1"}},
    "continuous": {"environment": {"task": "HalfCheetah-v4"} | NORMALIZED},
    "squashed": {"environment": {"task": "Pendulum-v1"}, "architecture": {"squash_actions": True}},
    "masked": {"environment": {"task": "Maze-v0"}, "training_core": {"clip_value_loss": True}},
    "multi_discrete": {"environment": {"task": "JobShop-v0"}, "architecture": {"shared": True}},
    "image": {"environment": {"task": "Breakout-v5"}, "architecture": {"hidden_sizes": [32], "shared": True}},
}
SPO_CASES: dict[str, Case] = {
    "particles": {"environment": {"task": "CartPole-v1"}, "search": {"mode": "particles", "resampling": "ess"}},
    "tree": {"environment": {"task": "CartPole-v1", "max_episode_steps": 15}, "search": {"mode": "tree"}},
    "discounted": {
        "environment": {"task": "Acrobot-v1"},
        "search": {"mode": "tree", "search_gamma": 0.9, "search_gae_lambda": 0.8, "root_noise_fraction": 0.25},
    },
    "continuous": {
        "environment": {"task": "Pendulum-v1", "reward_scale": 0.1, "normalize_obs": True},
        "search": {"resampling": "period", "resampling_period": 2, "root_noise_fraction": 0.25},
    },
    "masked": {"environment": {"task": "Maze-v0"}, "search": {"search_gamma": 0.9}},
    "joint": {"environment": {"task": "RubiksCube-partly-scrambled-v0"}, "spo": {"adaptive_temperature": False}},
    "chance": {"environment": {"task": "Game2048-v1"}, "search": {"search_gae_lambda": 0.8}},
    "sequences": {"environment": {"task": "CartPole-v1"}, "spo": {"targets": "sequences", "sequence_length": 8}},
    "reference": {
        "environment": {"task": "CartPole-v1"},
        "search": {"reference": REFERENCE, "resampling": "period", "resampling_period": 2, "search_gamma": 0.9},
    },
}


def ppo_config(case: Case) -> PpoConfig:
    return PpoConfig.model_validate(
        {
            "environment": {"num_envs": 4} | case["environment"],
            "training_core": PPO_CORE | case.get("training_core", {}),
            "architecture": case.get("architecture", {}),
        }
    )


def spo_config(case: Case) -> SpoConfig:
    sections = {name: SMALL_SEARCH.get(name, {}) | case.get(name, {}) for name in {*SMALL_SEARCH, *case}}
    return SpoConfig.model_validate(sections | {"environment": {"num_envs": 4} | case["environment"]})


ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Case]]] = {
    "ppo": (Ppo, ppo_config, PPO_CASES),
    "spo": (Spo, spo_config, SPO_CASES),
}


def kept(algorithm: str) -> Path:
    return Path(__file__).with_name(f"golden_{algorithm}.json")


def trace(algorithm: str, name: str) -> list[dict[str, float]]:
    learner_class, make_config, cases = ALGORITHMS[algorithm]
    config = make_config(cases[name])
    seeds, environment = spawn_seeds(1), config.environment
    env = make_vector_env(
        environment.task,
        environment.num_envs,
        seeds.environment,
        num_threads=1,
        max_episode_steps=environment.max_episode_steps,
    )
    learner = learner_class(env.spec, config, Runtime(torch.device("cpu"), seeds))
    storage, updates = learner.make_storage(env.num_envs), []
    for update in range(NUM_UPDATES):
        collect(learner, env, storage, EpisodeStatistics(env.num_envs))
        updates.append(learner.update(storage, progress=update / NUM_UPDATES)._asdict())
    return updates


@pytest.mark.parametrize(
    ("algorithm", "name"), [(algorithm, name) for algorithm, (_, _, cases) in ALGORITHMS.items() for name in cases]
)
def test_first_updates_are_those_of_the_trace(algorithm: str, name: str) -> None:
    expected = json.loads(kept(algorithm).read_text())[name]
    for update, (got, then) in enumerate(zip(trace(algorithm, name), expected, strict=True)):
        assert got.keys() == then.keys()
        for metric, value in then.items():
            assert got[metric] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (update, metric)


def main() -> None:
    torch.set_num_threads(1)
    for algorithm in sys.argv[1:]:
        traces = {name: trace(algorithm, name) for name in ALGORITHMS[algorithm][2]}
        kept(algorithm).write_text(json.dumps(traces, indent=1) + "\n")


if __name__ == "__main__":
    main()
