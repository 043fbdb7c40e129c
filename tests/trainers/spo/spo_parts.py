"""A learner of SPO with what it needs, small enough for a test."""

from typing import Any

import torch

from trainers.config import SpoConfig
from trainers.envs import VectorEnv, make_vector_env
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import prepare
from trainers.spo import Spo
from trainers.spo.replay import Experience

SMALL = {
    "training_core": {"horizon": 8, "total_timesteps": 512},
    "architecture": {"hidden_sizes": (16, 16)},
    "search": {"num_particles": 4, "search_depth": 3},
    "spo": {"replay_size": 96, "batch_size": 16, "replay_ratio": 2.0},
}

WIDE_SPEEDS = {"options": {"velocity_min": -1000.0, "velocity_max": 1000.0}}
"""Of the environment of Hopper and Walker2d."""


class Parts:
    """A learner with environments to learn from."""

    def __init__(self, task: str = "CartPole-v1", *, num_groups: int = 1, **changes: Any) -> None:
        sections = {name: {**SMALL.get(name, {}), **changes.get(name, {})} for name in {*SMALL, *changes}}
        sections["environment"] = {"task": task, "num_envs": 4, **sections.get("environment", {})}
        self.config = SpoConfig(**sections)
        runtime = prepare(self.config.hardware, self.config.training_core.seed)
        environment = self.config.environment
        self.env = self.make_env(runtime.seeds.environment, environment.num_envs, num_groups)
        self.spo = Spo(self.env.spec, self.config, runtime)
        self.storage = self.spo.make_storage(environment.num_envs)
        self.episodes = EpisodeStatistics(environment.num_envs)

    def make_env(self, seed: int, num_envs: int, num_groups: int = 1) -> VectorEnv:
        environment = self.config.environment
        return make_vector_env(
            environment.task,
            num_envs,
            seed,
            max_episode_steps=environment.max_episode_steps,
            options=environment.options,
            num_groups=num_groups,
        )

    @property
    def found(self) -> Experience:
        """What the searches of the last rollout have found."""
        return self.spo._actor.experience(self.storage, 1.0)

    def update(self, count: int = 1) -> dict[str, float]:
        for _ in range(count):
            collect(self.spo, self.env, self.storage, self.episodes)
            metrics = self.spo.update(self.storage, 0.0)
        return metrics._asdict()


def weights(spo: Spo) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in spo.network.parameters()])
