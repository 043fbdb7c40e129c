"""Every file in configs/ is a run that works."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.config import PpoConfig, load
from trainers.envs import make_vector_env
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
PRESETS = sorted(CONFIGS.glob("ppo*.yaml"))
LARGEST_BATCH = 64
"""Rows of the test's rollout: fewer steps of fewer environments, all else as the file says."""


def small(config: PpoConfig) -> PpoConfig:
    environment = {"num_envs": 4}
    core = {"horizon": LARGEST_BATCH // 4, "num_minibatches": 2, "num_epochs": 1, "total_timesteps": 1000}
    sections = {"environment": config.environment, "training_core": config.training_core}
    changed = {name: section.model_dump() for name, section in sections.items()}
    changed["environment"] |= environment
    changed["training_core"] |= core
    return PpoConfig.model_validate(config.model_dump() | changed)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_trains(path: Path) -> None:
    config = small(load(path, PpoConfig))
    settings, seeds = config.environment, spawn_seeds(1)
    env = make_vector_env(settings.task, settings.num_envs, seeds.environment, options=settings.options)
    ppo = Ppo(env.spec, config, Runtime(torch.device("cpu"), seeds))
    storage = ppo.make_storage(env.num_envs)
    collect(ppo, env, storage, EpisodeStatistics(env.num_envs))
    metrics = ppo.update(storage, 0.0)
    assert np.isfinite([metrics.actor_loss, metrics.critic_loss, metrics.entropy]).all()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_uses_the_whole_budget_that_it_states(path: Path) -> None:
    config = load(path, PpoConfig)
    assert config.num_updates * config.batch_size == config.training_core.total_timesteps
    assert "To reach: " in path.read_text() or path.name == "ppo.yaml"


def test_tasks_that_one_would_look_for_have_a_preset() -> None:
    names = {path.stem.removeprefix("ppo").removeprefix("_") for path in PRESETS}
    control = {"", "acrobot", "pendulum", "lunarlander", "bipedalwalker"}
    assert names >= control | {"halfcheetah", "hopper", "walker2d", "ant"} | {"pong", "breakout"}
    assert names >= {"maze", "sokoban", "game2048"}
