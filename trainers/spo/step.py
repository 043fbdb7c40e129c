"""One gradient step of SPO: critic, policy and multipliers, each with an optimiser and a clip norm of its own.

Shapes: B minibatch, K atoms, M futures, P policy parameters.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from trainers.config import SpoSection
from trainers.networks import ActorCritic
from trainers.optim import FlatAdam
from trainers.spo.duals import Duals
from trainers.spo.losses import (
    MStep,
    critic_loss,
    discrete_m_step,
    entropy_of_choices,
    entropy_of_gaussian,
    gaussian_m_step,
    mean,
    temperature_loss,
)
from trainers.spo.policies import SearchPolicy

__all__ = ["STEP_METRICS", "Batch", "GradientStep", "Optimizers"]

STEP_METRICS: Final = (
    "actor_loss",
    "critic_loss",
    "entropy",
    "approx_kl",
    "explained_variance",
    "global_grad_norm",
    "actor_grad_norm",
    "critic_grad_norm",
    "dual_grad_norm",
    "temperature",
    "alpha",
    "kl_e_step",
    "kl_m_step",
    "mpo_temperature_loss",
    "mpo_alpha_loss",
    "mpo_total_loss",
)
"""What a step reports, in order."""


class Batch(NamedTuple):
    """Rows to learn from.

    Attributes:
        obs: [B, ...].
        action: [B, K] or [B, K, A], atoms of the search's policy.
        weight: [B, K].
        advantage: [B, M].
        log_prior: [B, M].
        value_target: [B].
        target_params: [B, P], of the target policy.
        valid: [B], 1, or 0 for rows that must not count.
    """

    obs: Tensor
    action: Tensor
    weight: Tensor
    advantage: Tensor
    log_prior: Tensor
    value_target: Tensor
    target_params: Tensor
    valid: Tensor


class Optimizers(NamedTuple):
    """One for each of what moves by itself."""

    actor: FlatAdam
    critic: FlatAdam
    duals: FlatAdam


class GradientStep:
    """Moves everything once per call; no host sync.

    Args:
        network: actor and critic.
        duals: temperature and alphas.
        policy: what the actor's outputs mean.
        optimizers: of all these.
        config: the constraints.
    """

    def __init__(
        self, network: ActorCritic, duals: Duals, policy: SearchPolicy, optimizers: Optimizers, config: SpoSection
    ) -> None:
        self._network, self._duals, self._policy = network, duals, policy
        self._optimizers, self._config = optimizers, config

    def __call__(self, batch: Batch) -> Tensor:
        """Learn from these rows; returns STEP_METRICS."""
        params_BP = self._policy.params(self._network.policy(batch.obs))
        value_B = self._network.value(batch.obs).float()
        m_step = self._m_step(params_BP, batch)
        critic = critic_loss(value_B, batch.value_target, batch.valid)
        temperature = self._duals["temperature"].squeeze(0)
        e_step = temperature_loss(batch.advantage, batch.log_prior, temperature, self._config.epsilon, batch.valid)
        actor_loss, dual_loss = m_step.policy + m_step.trust, m_step.alpha + e_step.loss
        norms = [
            optimizer.minimize(loss)
            for optimizer, loss in zip(self._optimizers, (actor_loss, critic, dual_loss), strict=True)
        ]
        self._duals.clamp_()
        metrics = (
            m_step.policy,
            critic,
            mean(self._entropy(params_BP), batch.valid),
            m_step.kl,
            _explained_variance(value_B, batch.value_target, batch.valid),
            torch.stack(norms).square().sum().sqrt(),
            *norms,
            temperature,
            self._alpha(),
            e_step.kl,
            m_step.kl,
            e_step.loss,
            m_step.alpha,
            actor_loss + dual_loss,
        )
        return torch.stack([metric.detach() for metric in metrics])

    def _m_step(self, params_BP: Tensor, batch: Batch) -> MStep:
        config = self._config
        shared = (self._policy, params_BP, batch.target_params, batch.action, batch.weight)
        if self._policy.action_shape == ():
            return discrete_m_step(*shared, self._duals["alpha"].squeeze(0), config.epsilon_policy, batch.valid)
        return gaussian_m_step(
            *shared,
            self._duals["alpha_mean"],
            self._duals["alpha_stddev"],
            config.epsilon_mean,
            config.epsilon_stddev,
            batch.valid,
        )

    def _entropy(self, params_BP: Tensor) -> Tensor:
        return entropy_of_choices(params_BP) if self._policy.action_shape == () else entropy_of_gaussian(params_BP)

    def _alpha(self) -> Tensor:
        return self._duals["alpha" if self._policy.action_shape == () else "alpha_mean"].mean()


def _explained_variance(value_B: Tensor, target_B: Tensor, valid_B: Tensor) -> Tensor:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 as good as a constant."""
    error_B = target_B - value_B.detach()
    unexplained = mean((error_B - mean(error_B, valid_B)).square(), valid_B)
    return 1.0 - unexplained / mean((target_B - mean(target_B, valid_B)).square(), valid_B).clamp(min=1e-12)
