"""Every file in configs/ is a run that works."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.cli.algorithms import ALGORITHMS, AlgorithmEntry
from trainers.config import RunConfig, load
from trainers.envs import make_vector_env
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
PRESETS = sorted(CONFIGS.glob("*.yaml"))
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "ppo": {"training_core": {"num_minibatches": 2, "num_epochs": 1}},
    "spo": {"spo": {"replay_size": 128, "batch_size": 32, "replay_ratio": 1}},
}
"""Rollouts of 16 steps of 4 environments, and little learning; all else as the file says."""


def entry_of(path: Path) -> AlgorithmEntry[Any]:
    return ALGORITHMS[path.stem.split("_")[0]]


def small(config: RunConfig, name: str) -> RunConfig:
    values = config.model_dump()
    changes = {"environment": {"num_envs": 4}, "training_core": {"horizon": 16, "total_timesteps": 1000}}
    for section in (changes, SMALL[name]):
        for key, changed in section.items():
            values[key] |= changed
    return type(config).model_validate(values)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_trains(path: Path) -> None:
    entry = entry_of(path)
    config = small(load(path, entry.config_model), entry.name)
    settings, seeds = config.environment, spawn_seeds(1)
    env = make_vector_env(settings.task, settings.num_envs, seeds.environment, options=settings.options)
    algorithm = entry.build(env.spec, config, Runtime(torch.device("cpu"), seeds))
    storage = algorithm.make_storage(env.num_envs)
    collect(algorithm, env, storage, EpisodeStatistics(env.num_envs))
    metrics = algorithm.update(storage, 0.0)._asdict()
    assert np.isfinite([metrics["actor_loss"], metrics["critic_loss"], metrics["entropy"]]).all()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_uses_the_whole_budget_that_it_states(path: Path) -> None:
    config = load(path, entry_of(path).config_model)
    assert config.num_updates * config.batch_size == config.training_core.total_timesteps
    assert "To reach: " in path.read_text() or path.stem in ALGORITHMS


def test_tasks_that_one_would_look_for_have_a_preset() -> None:
    names = {path.stem for path in PRESETS}
    control = {"acrobot", "pendulum", "lunarlander", "bipedalwalker"}
    mujoco = {"halfcheetah", "hopper", "walker2d", "ant"}
    puzzles = {"maze", "rubikscube", "sokoban", "game2048"}
    assert names >= {"ppo"} | {f"ppo_{task}" for task in control | mujoco | puzzles | {"pong", "breakout"}}
    simulated = {"acrobot", "pendulum", "halfcheetah", "hopper", "slidingtile"} | puzzles
    assert names >= {"spo"} | {f"spo_{task}" for task in simulated}
