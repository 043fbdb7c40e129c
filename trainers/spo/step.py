"""One gradient step of SPO: policy, critic and multipliers, each with an optimiser and a clip norm of its own.

In two forms that agree: by autograd on modules, the fastest as plain calls; and as a pure function, which can be
compiled or captured whole: gather, forward, backward, clip and Adam become one.
Shapes: B minibatch, K atoms, M futures, P policy parameters, X rows to choose from.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from trainers.config import SpoSection
from trainers.networks import ActorCritic
from trainers.optim import FlatAdam
from trainers.returns import explained_variance
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

LOSS_METRICS: Final = (
    "actor_loss",
    "critic_loss",
    "entropy",
    "approx_kl",
    "explained_variance",
    "temperature",
    "alpha",
    "kl_e_step",
    "kl_m_step",
    "mpo_temperature_loss",
    "mpo_alpha_loss",
    "mpo_total_loss",
)
STEP_METRICS: Final = (
    *LOSS_METRICS,
    "actor_grad_norm",
    "critic_grad_norm",
    "dual_grad_norm",
    "global_grad_norm",
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


class _Losses(NamedTuple):
    """What each optimiser minimises, and LOSS_METRICS."""

    actor: Tensor
    critic: Tensor
    duals: Tensor
    metrics: Tensor


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
        self._is_choice = policy.action_shape == ()
        names = {parameter: f"network.{name}" for name, parameter in network.named_parameters()}
        names |= {parameter: f"duals.{name}" for name, parameter in duals.named_parameters()}
        self._names = [[names[parameter] for parameter in optimizer.parameters] for optimizer in optimizers]

    def by_autograd(self, batch: Batch) -> Tensor:
        """Learn from these rows; returns STEP_METRICS."""
        losses = self._losses(self._network, self._duals(), batch)
        norms = [optimizer.minimize(loss) for optimizer, loss in zip(self._optimizers, losses[:3], strict=True)]
        return self._finish(losses.metrics, norms)

    def by_function(self, *batch: Tensor) -> Tensor:
        """The same, of a batch's parts, as a pure function but for the parameters, which are moved in place."""
        rows = Batch(*batch)

        def total(parameters: dict[str, Tensor]) -> tuple[Tensor, _Losses]:
            network = {name[8:]: value for name, value in parameters.items() if name.startswith("network.")}
            duals = {name[6:]: value for name, value in parameters.items() if name.startswith("duals.")}
            losses = self._losses(
                lambda obs: functional_call(self._network, network, (obs,)),
                functional_call(self._duals, duals, ()),
                rows,
            )
            # no parameter has a part in two of them
            return losses.actor + losses.critic + losses.duals, losses

        views = [optimizer.views() for optimizer in self._optimizers]
        pairs = zip(self._names, views, strict=True)
        parameters = {name: view for names, parts in pairs for name, view in zip(names, parts, strict=True)}
        gradients, (_, losses) = grad_and_value(total, has_aux=True)(parameters)
        norms = []
        for optimizer, names, loss in zip(self._optimizers, self._names, losses[:3], strict=True):
            gradient_P = torch.cat([gradients[name].reshape(-1) for name in names])
            norms.append(optimizer.step_(gradient_P, loss))
        return self._finish(losses.metrics, norms)

    def _losses(
        self, network: Callable[[Tensor], tuple[Tensor, Tensor]], duals: dict[str, Tensor], batch: Batch
    ) -> _Losses:
        outputs, value_B = network(batch.obs)
        params_BP = self._policy.params(outputs)
        m_step = self._m_step(params_BP, duals, batch)
        critic = critic_loss(value_B, batch.value_target, batch.valid)
        temperature = duals["temperature"].squeeze(0)
        e_step = temperature_loss(batch.advantage, batch.log_prior, temperature, self._config.epsilon, batch.valid)
        actor_loss, dual_loss = m_step.policy + m_step.trust, m_step.alpha + e_step.loss
        entropy_B = entropy_of_choices(params_BP) if self._is_choice else entropy_of_gaussian(params_BP)
        metrics = (
            m_step.policy,
            critic,
            mean(entropy_B, batch.valid),
            m_step.kl,
            explained_variance(value_B, batch.value_target, batch.valid),
            temperature,
            duals["alpha" if self._is_choice else "alpha_mean"].mean(),
            e_step.kl,
            m_step.kl,
            e_step.loss,
            m_step.alpha,
            actor_loss + dual_loss,
        )
        return _Losses(actor_loss, critic, dual_loss, torch.stack([metric.detach() for metric in metrics]))

    def _m_step(self, params_BP: Tensor, duals: dict[str, Tensor], batch: Batch) -> MStep:
        config = self._config
        shared = (self._policy, params_BP, batch.target_params, batch.action, batch.weight)
        if self._is_choice:
            return discrete_m_step(*shared, duals["alpha"].squeeze(0), config.epsilon_policy, batch.valid)
        multipliers = (duals["alpha_mean"], duals["alpha_stddev"])
        return gaussian_m_step(*shared, *multipliers, config.epsilon_mean, config.epsilon_stddev, batch.valid)

    def _finish(self, metrics: Tensor, norms: list[Tensor]) -> Tensor:
        self._duals.clamp_()
        norm_3 = torch.stack(norms)
        return torch.cat([metrics, norm_3, torch.linalg.vector_norm(norm_3).unsqueeze(0)])
