"""From the replay to minibatches, with what the target networks say of their rows.

Cached: the whole replay is judged once per update, and single steps are drawn from it; a gradient step then costs one
forward and one backward pass of the online networks. In sequences, as in the reference: runs of steps are drawn, and
judged at each gradient step by the target networks as they are by then.
Shapes: F filled slots, T horizon, S = T + 1, N environments, X = F * T * N, B rows, G minibatches, L steps of a
sequence, P policy parameters.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from trainers.config import SpoConfig
from trainers.networks import ActorCritic
from trainers.returns import gae
from trainers.spo.policies import SearchPolicy
from trainers.spo.replay import Replay, Sequences
from trainers.spo.step import Batch
from trainers.spo.targets import stream_targets

__all__ = ["Batches"]

GATHERED: Final = 8
"""Minibatches that are gathered at once, by a call for each part of them and not for each minibatch."""


class Batches:
    """Makes the minibatches of an update.

    Args:
        target: the target networks.
        policy: what the actor's outputs mean.
        config: sizes, discounts, and which kind of minibatch.
        generator: of the draws.
        num_ranks: processes that share each minibatch, equally.
    """

    def __init__(
        self,
        target: ActorCritic,
        policy: SearchPolicy,
        config: SpoConfig,
        generator: torch.Generator,
        num_ranks: int = 1,
    ) -> None:
        self._target, self._policy, self._generator, self._spo = target, policy, generator, config.spo
        self._num_steps = config.num_gradient_steps(num_ranks)
        self._batch_size = config.spo.batch_size // num_ranks
        self._gamma, self._gae_lambda = config.training_core.gamma, config.training_core.gae_lambda

    def draw(self, replay: Replay) -> Iterator[Batch]:
        """Draw the minibatches of one update, in turn: the target networks may change between them."""
        return self._single_steps(replay) if self._spo.targets == "cached" else self._sequences(replay)

    @torch.no_grad()
    def _single_steps(self, replay: Replay) -> Iterator[Batch]:
        filled, size = slice(0, replay.num_filled), self._batch_size
        kept = replay.experience
        action, weight, advantage, log_prior = (part[filled].flatten(0, 2) for part in kept.of_search())
        obs = replay.obs[filled, :-1].flatten(0, 2)
        target_X, params_XP = self._value_targets(replay).flatten(), self._params(obs)
        parts = (obs, action, weight, advantage, log_prior, target_X, params_XP)
        valid_B = torch.ones(size, device=obs.device)
        for index_GB in torch.split(replay.draw_steps(self._num_steps, size, self._generator), GATHERED):
            drawn = [torch.split(part.index_select(0, index_GB.flatten()), size) for part in parts]
            for rows in zip(*drawn, strict=True):
                yield Batch._make([*rows, valid_B])

    def _value_targets(self, replay: Replay) -> Tensor:
        """What the critic shall learn of all that is kept; [F, T, N]."""
        obs, order_F, kept = replay.obs[: replay.num_filled], replay.order(), replay.experience
        value_FSN = self._target.value(obs.flatten(0, 2)).float().view(obs.shape[:3])
        ends = (kept.terminated[order_F], kept.truncated[order_F], kept.valid[order_F])
        in_order = stream_targets(
            value_FSN[order_F],
            kept.reward[order_F],
            *ends,
            replay.goes_on(),
            gamma=self._gamma,
            gae_lambda=self._gae_lambda,
        )
        return torch.empty_like(in_order).index_copy_(0, order_F, in_order)

    @torch.no_grad()
    def _sequences(self, replay: Replay) -> Iterator[Batch]:
        length = self._spo.sequence_length
        num_sequences = self._batch_size // length
        drawn = replay.draw_sequences(self._num_steps, num_sequences, length, self._generator)
        for sequences in drawn:
            yield self._judge(replay, sequences)

    def _judge(self, replay: Replay, sequences: Sequences) -> Batch:
        slot, t, env, goes_on_LB = sequences
        kept = replay.experience
        obs, next_obs = (replay.obs[slot, at, env].flatten(0, 1) for at in (t, t + 1))
        terminated, truncated, valid = (part[slot, t, env] for part in (kept.terminated, kept.truncated, kept.valid))
        value_LB, next_value_LB = self._target.value(torch.cat([obs, next_obs])).float().view(2, *t.shape)
        advantage_LB = gae(
            kept.reward[slot, t, env],
            value_LB,
            next_value_LB,
            terminated,
            truncated,
            valid,
            gamma=self._gamma,
            gae_lambda=self._gae_lambda,
            follows_TN=goes_on_LB,
        )
        searched = (part[slot, t, env].flatten(0, 1) for part in kept.of_search())
        is_valid_B, value_target_B = valid.flatten(), (value_LB + advantage_LB).flatten()
        sound_B = _sound_rows(is_valid_B)
        rows = [part.index_select(0, sound_B) for part in (obs, *searched, value_target_B)]
        return Batch._make([*rows, self._params(rows[0]), is_valid_B.float()])

    def _params(self, obs: Tensor) -> Tensor:
        return self._policy.params(self._target.policy(obs))


def _sound_rows(is_valid_B: Tensor) -> Tensor:
    """The rows' numbers, but for dummies that of a row that counts: no gradient may meet what a dummy holds."""
    row_B = torch.arange(len(is_valid_B), device=is_valid_B.device)
    return torch.where(is_valid_B, row_B, is_valid_B.int().argmax())
