"""The terms of PPO's objective, each over one minibatch of valid rows.

Shapes: B minibatch. Every mean is over the rows that are given: dummies must have been left out.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ActorLoss", "actor_loss", "critic_loss", "explained_variance", "normalize"]

_EPS = 1e-8
"""Keeps a minibatch of equal advantages from dividing by 0."""


class ActorLoss(NamedTuple):
    """The clipped objective, and how far the policy has moved; 0-d each, only the loss has a gradient."""

    loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def actor_loss(log_prob_B: Tensor, old_log_prob_B: Tensor, advantage_B: Tensor, clip_coef: float) -> ActorLoss:
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
    loss = -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()
    with torch.no_grad():
        change_B = ratio_B.detach() - 1.0
        approx_kl = (change_B - log_ratio_B.detach()).mean()
        clip_fraction = (change_B.abs() > clip_coef).float().mean()
    return ActorLoss(loss, approx_kl, clip_fraction)


def critic_loss(value_B: Tensor, old_value_B: Tensor, target_B: Tensor, clip_coef: float | None) -> Tensor:
    """Half the mean squared error; with a clip coefficient, the larger of it and of the clipped value's.

        V_clip = V_old + clip(V - V_old, -c, c)
        loss   = mean(max((V - target)^2, (V_clip - target)^2)) / 2

    Args:
        value_B: V, has a gradient.
        old_value_B: V_old, from before the update.
        target_B: advantage + V_old.
        clip_coef: c, or None for the plain error.
    """
    assert value_B.shape == old_value_B.shape == target_B.shape
    error_B = (value_B - target_B).square()
    if clip_coef is not None:
        clipped_B = old_value_B + (value_B - old_value_B).clamp(-clip_coef, clip_coef)
        error_B = torch.maximum(error_B, (clipped_B - target_B).square())
    return 0.5 * error_B.mean()


def normalize(advantage_B: Tensor) -> Tensor:
    """Shift and scale to mean 0 and population standard deviation 1; equal advantages become 0."""
    std, mean = torch.std_mean(advantage_B, correction=0)
    return (advantage_B - mean) / (std + _EPS)


def explained_variance(value_B: Tensor, target_B: Tensor) -> Tensor:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 as good as a constant; NaN if targets are equal."""
    variance = target_B.var(correction=0)
    unexplained = (target_B - value_B).var(correction=0)
    return torch.where(variance > 0, 1.0 - unexplained / variance, torch.nan)
