"""PPO's objective and its terms, each over one minibatch of valid rows.

Dummies have been left out of a minibatch. Where its shape must not vary (compiled, captured), it is filled up with
rows of weight 0: every mean is then the weighted one.
Shapes: B minibatch, K metrics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

__all__ = ["METRICS", "ActorLoss", "Objective", "actor_loss", "critic_loss", "normalize"]

METRICS: Final = ("actor_loss", "critic_loss", "entropy", "approx_kl", "clip_fraction")
"""What an objective reports, in order."""

_EPS = 1e-8
"""Keeps a minibatch of equal advantages from dividing by 0."""


class ActorLoss(NamedTuple):
    """The clipped objective, and how far the policy has moved; 0-d each, only the loss has a gradient."""

    loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


@dataclass(frozen=True)
class Objective:
    """The loss that a gradient step goes down.

        loss = actor_loss + value_coef * critic_loss - entropy_coef * entropy

    Attributes:
        clip_coef: how far the probability of an action may move.
        clip_value_loss: clip the change of the value, too.
        value_coef: weight of the critic.
        entropy_coef: weight of the entropy.
        normalize_advantage: per minibatch.
        mean_over_ranks: averages a tensor over the processes that share a minibatch; None for a process alone.
    """

    clip_coef: float
    clip_value_loss: bool
    value_coef: float
    entropy_coef: float
    normalize_advantage: bool
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None

    def __call__(
        self,
        log_prob_B: Tensor,
        entropy_B: Tensor,
        value_B: Tensor,
        old_log_prob_B: Tensor,
        old_value_B: Tensor,
        advantage_B: Tensor,
        weight_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the METRICS [K] without gradient."""
        scaled_B = advantage_B
        if self.normalize_advantage:
            scaled_B = normalize(advantage_B, weight_B, self.mean_over_ranks)
        actor = actor_loss(log_prob_B, old_log_prob_B, scaled_B, self.clip_coef, weight_B)
        clip_coef = self.clip_coef if self.clip_value_loss else None
        critic = critic_loss(value_B, old_value_B, advantage_B + old_value_B, clip_coef, weight_B)
        entropy = _mean(entropy_B, weight_B)
        loss = actor.loss + self.value_coef * critic
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        metrics = (actor.loss, critic, entropy, actor.approx_kl, actor.clip_fraction)
        return loss, torch.stack([metric.detach() for metric in metrics])


def actor_loss(
    log_prob_B: Tensor,
    old_log_prob_B: Tensor,
    advantage_B: Tensor,
    clip_coef: float,
    weight_B: Tensor | None = None,
) -> ActorLoss:
    """Clip the probability ratio where moving on would only help.

        ratio = pi(a|s) / pi_old(a|s)
        loss  = -mean(min(ratio * A, clip(ratio, 1 - c, 1 + c) * A))
        approx_kl = mean(ratio - 1 - log ratio)
        clip_fraction = mean(|ratio - 1| > c)

    Source:
        Schulman et al. 2017, Proximal Policy Optimization Algorithms, eq. 7; k3 of Schulman 2020, Approximating KL
        Divergence: unbiased for KL(pi_old || pi), and never negative.
    """
    assert log_prob_B.shape == old_log_prob_B.shape == advantage_B.shape
    log_ratio_B = log_prob_B - old_log_prob_B
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    loss = -_mean(torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B), weight_B)
    with torch.no_grad():
        change_B = ratio_B.detach() - 1.0
        approx_kl = _mean(change_B - log_ratio_B.detach(), weight_B)
        clip_fraction = _mean((change_B.abs() > clip_coef).float(), weight_B)
    return ActorLoss(loss, approx_kl, clip_fraction)


def critic_loss(
    value_B: Tensor,
    old_value_B: Tensor,
    target_B: Tensor,
    clip_coef: float | None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Half the mean squared error; with a clip coefficient, the larger of it and of the clipped value's.

        V_clip = V_old + clip(V - V_old, -c, c)
        loss   = mean(max((V - target)^2, (V_clip - target)^2)) / 2

    Args:
        value_B: V, has a gradient.
        old_value_B: V_old, from before the update.
        target_B: advantage + V_old.
        clip_coef: c, or None for the plain error.
        weight_B: of each row, 1 or 0; None weighs all alike.
    """
    assert value_B.shape == old_value_B.shape == target_B.shape
    error_B = (value_B - target_B).square()
    if clip_coef is not None:
        clipped_B = old_value_B + (value_B - old_value_B).clamp(-clip_coef, clip_coef)
        error_B = torch.maximum(error_B, (clipped_B - target_B).square())
    return 0.5 * _mean(error_B, weight_B)


def normalize(
    advantage_B: Tensor,
    weight_B: Tensor | None = None,
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Shift and scale to mean 0 and population standard deviation 1; equal advantages become 0."""
    if weight_B is None and mean_over_ranks is None:
        std, mean = torch.std_mean(advantage_B, correction=0)
    else:
        average = mean_over_ranks or _as_it_is
        mean = average(_mean(advantage_B, weight_B))
        std = average(_mean((advantage_B - mean).square(), weight_B)).sqrt()
    return (advantage_B - mean) / (std + _EPS)


def _mean(x_B: Tensor, weight_B: Tensor | None) -> Tensor:
    return x_B.mean() if weight_B is None else (x_B * weight_B).sum() / weight_B.sum()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
