"""From a policy and environments to a rollout: the one loop that steps training environments."""

from typing import Protocol

import torch
from torch import Tensor

from trainers.envs import VectorEnv
from trainers.rollout.episodes import EpisodeStatistics
from trainers.rollout.storage import RolloutStorage

__all__ = ["Policy", "collect"]


class Policy(Protocol):
    """What `collect` asks of an algorithm."""

    def begin_rollout(self, storage: RolloutStorage) -> None:
        """Draw all random numbers of the rollout."""

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Read `storage.obs[t, envs]`; write `storage.action[t, envs]` and the extras that the algorithm declared.

        Returns:
            What these environments shall execute.
        """


def collect(policy: Policy, env: VectorEnv, storage: RolloutStorage, statistics: EpisodeStatistics) -> int:
    """Fill the storage with T steps of every environment.

    With several groups of environments the threads of one work while the policy acts for another.

    Returns:
        The number of environment steps, dummies not counted.
    """
    storage.begin(env)
    with torch.inference_mode():
        policy.begin_rollout(storage)
        for t in range(storage.horizon):
            for group, envs in env.groups:
                if t > 0:
                    storage.record(t - 1, envs, group.receive(storage.obs_row(t, envs)))
                group.send(storage.host_action(policy.act(storage, t, envs), envs))
        for group, envs in env.groups:
            storage.record(storage.horizon - 1, envs, group.receive(storage.obs_row(storage.horizon, envs)))
    storage.finish()
    statistics.add(*storage.host_view())
    return storage.num_valid
