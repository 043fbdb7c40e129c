"""From a rollout to rows that can be learnt from: how probable each action was, what it was worth, what V said.

Shapes: T horizon, N envs, S = T + 1, P distribution parameters.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.compilation import Execution, compiled
from trainers.config import PpoConfig
from trainers.distributions import Distribution
from trainers.networks import ActorCritic
from trainers.normalize import RewardNormalizer
from trainers.ppo.batch import Batch
from trainers.returns import gae
from trainers.rollout import RolloutStorage

__all__ = ["Estimator"]

MOST_IMAGES: Final = 512
"""Images that pass the network at once outside the minibatches: 60 MB of float32 input."""


class Estimator:
    """Judges rollouts, before the policy that made them is changed.

    Args:
        network: actor and critic.
        distribution: of the actions.
        reward_normalizer: takes every rollout in, if rewards are to be normalised.
        config: discounts, and what becomes of rewards.
        execution: of the estimates.
        device: of the network.
    """

    def __init__(
        self,
        network: ActorCritic,
        distribution: Distribution,
        reward_normalizer: RewardNormalizer,
        config: PpoConfig,
        execution: Execution,
        device: torch.device,
    ) -> None:
        self._network, self._distribution, self._reward_normalizer = network, distribution, reward_normalizer
        self._core, self._environment = config.training_core, config.environment
        self._estimate = compiled(self._estimate_plain, execution, device)

    @torch.no_grad()
    def batch(self, storage: RolloutStorage) -> Batch:
        """Return the rows of a rollout, dummies included, flattened to [T * N]."""
        flags = (storage.terminated, storage.truncated, storage.valid)
        estimates = self._estimate(
            storage.obs,
            storage.extras["params"],
            storage.extras.get("value"),
            storage.action,
            self._scaled_rewards(storage),
            *flags,
        )
        rows = (storage.obs[:-1], storage.action, *estimates)
        return Batch(*[row.flatten(0, 1) for row in rows])

    def _estimate_plain(
        self,
        obs_S: Tensor,
        params_TNP: Tensor,
        value_TN: Tensor | None,
        action_TN: Tensor,
        reward_TN: Tensor,
        terminated_TN: Tensor,
        truncated_TN: Tensor,
        valid_TN: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, advantages and values [T, N]; the critic runs once, over all rows that have none yet."""
        if value_TN is None:
            value_SN = self._values(obs_S)
        else:
            value_SN = torch.cat([value_TN, self._network.value(obs_S[-1]).unsqueeze(0)])
        advantage_TN = gae(
            reward_TN,
            value_SN[:-1],
            value_SN[1:],
            terminated_TN,
            truncated_TN,
            valid_TN,
            gamma=self._core.gamma,
            gae_lambda=self._core.gae_lambda,
        )
        log_prob_TN, _ = self._distribution.log_prob_and_entropy(params_TNP, action_TN)
        return log_prob_TN, advantage_TN, value_SN[:-1]

    def _values(self, obs_S: Tensor) -> Tensor:
        """V of every row [S, N], in pieces if they are images: their activations would fill the memory."""
        rows = obs_S.flatten(0, 1)
        pieces = torch.split(rows, MOST_IMAGES if obs_S.dtype == torch.uint8 else len(rows))
        return torch.cat([self._network.value(piece) for piece in pieces]).view(obs_S.shape[:2])

    def _scaled_rewards(self, storage: RolloutStorage) -> Tensor:
        """The rewards as the critic learns them."""
        settings, reward_TN = self._environment, storage.reward
        if settings.normalize_reward:
            done_TN = storage.terminated | storage.truncated
            reward_TN = self._reward_normalizer(reward_TN, done_TN, storage.valid, storage.elapsed[0] == 0)
        if settings.reward_scale != 1.0:
            reward_TN = reward_TN * settings.reward_scale
        if settings.reward_clip is not None:
            reward_TN = reward_TN.clamp(-settings.reward_clip, settings.reward_clip)
        return reward_TN
