"""From a policy and environments to a rollout: the one loop that steps training environments."""

from typing import Protocol

import torch

from trainers.envs import VectorEnv
from trainers.rollout.episodes import EpisodeStatistics
from trainers.rollout.storage import RolloutStorage

__all__ = ["Policy", "collect"]


class Policy(Protocol):
    """What `collect` asks of an algorithm."""

    def begin_rollout(self, storage: RolloutStorage) -> None:
        """Draw all random numbers of the rollout."""

    def act(self, storage: RolloutStorage, t: int) -> None:
        """Read `storage.obs[t]`; write `storage.action[t]`, and row t of the extras that the algorithm declared."""


def collect(policy: Policy, env: VectorEnv, storage: RolloutStorage, statistics: EpisodeStatistics) -> int:
    """Fill the storage with T steps of every environment.

    Returns:
        The number of environment steps, dummies not counted.
    """
    storage.begin(env)
    with torch.inference_mode():
        policy.begin_rollout(storage)
        for t in range(storage.horizon):
            policy.act(storage, t)
            storage.record(t, env.step(storage.host_action(t)))
    storage.finish()
    statistics.add(*storage.host_view())
    return storage.num_valid
