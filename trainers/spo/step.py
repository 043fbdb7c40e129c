"""One gradient step of SPO: policy, critic and multipliers, each with an optimiser and a clip norm of its own.

In two forms that agree: by autograd on modules, the fastest as plain calls; and as a pure function, which can be
compiled or captured whole: gather, forward, backward, clip and Adam become one.
Shapes: B minibatch, K atoms, A action dimensions, M futures, P policy parameters, C constraints of the policy.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from trainers.config import SpoSection
from trainers.networks import ActorCritic
from trainers.optim import FlatAdam, minimize
from trainers.returns import explained_variance
from trainers.spo.duals import Duals
from trainers.spo.losses import MStep, discrete_m_step, e_step, gaussian_m_step, mean
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
        valid: [B], 1, or 0 for rows that must not count; they must be finite all the same.
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
        self._alphas = ("alpha",) if self._is_choice else ("alpha_mean", "alpha_stddev")
        self._epsilon_C = _bounds(duals, self._alphas, config)
        names = {parameter: f"network.{name}" for name, parameter in network.named_parameters()}
        names |= {parameter: f"duals.{name}" for name, parameter in duals.named_parameters()}
        self._names = [[names[parameter] for parameter in optimizer.parameters] for optimizer in optimizers]

    def by_autograd(self, batch: Batch) -> Tensor:
        """Learn from these rows; returns STEP_METRICS."""
        losses = self._losses(self._network, self._duals(), batch)
        return self._finish(losses.metrics, minimize(self._optimizers, losses[:3]))

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
        m_step = self._m_step(self._policy.params(outputs), batch)
        temperature, alpha_C = duals["temperature"].squeeze(0), torch.cat([duals[name] for name in self._alphas])
        search = e_step(batch.advantage, batch.log_prior, temperature)
        squared_error_B = (value_B - batch.value_target).square()
        columns = (m_step.log_likelihood, squared_error_B, m_step.entropy, search.log_mean, search.kl)
        means = mean(torch.cat([torch.stack(columns, 1), m_step.kl], 1), batch.valid)
        log_likelihood, squared_error, entropy, log_mean, search_kl = means[:5].unbind()
        kl_C = means[5:]
        critic_loss = 0.5 * squared_error
        actor_loss = (alpha_C.detach() * kl_C).sum() - log_likelihood
        alpha_loss = (alpha_C * (self._epsilon_C - kl_C.detach())).sum()
        # its slope is the dual's; its value is not
        temperature_loss = temperature * (self._config.epsilon - search_kl).detach()
        kl = kl_C.sum()
        dual = temperature * (self._config.epsilon + log_mean)
        metrics = (
            -log_likelihood,
            critic_loss,
            entropy,
            kl,
            explained_variance(value_B, batch.value_target, batch.valid),
            temperature,
            duals[self._alphas[0]].mean(),
            search_kl,
            kl,
            dual,
            alpha_loss,
            actor_loss + alpha_loss + dual,
        )
        reported = torch.stack([metric.detach() for metric in metrics])
        return _Losses(actor_loss, critic_loss, alpha_loss + temperature_loss, reported)

    def _m_step(self, params_BP: Tensor, batch: Batch) -> MStep:
        given = (self._policy, params_BP, batch.target_params, batch.action, batch.weight)
        if self._is_choice:
            return discrete_m_step(*given)
        return gaussian_m_step(*given, is_per_dimension=self._config.per_dim_constraining)

    def _finish(self, metrics: Tensor, norms: list[Tensor]) -> Tensor:
        self._duals.clamp_()
        norm_3 = torch.stack(norms)
        return torch.cat([metrics, norm_3, torch.linalg.vector_norm(norm_3).unsqueeze(0)])


def _bounds(duals: Duals, alphas: Sequence[str], config: SpoSection) -> Tensor:
    """epsilon of each constraint of the policy, in the order of its multipliers."""
    given = {"alpha": config.epsilon_policy, "alpha_mean": config.epsilon_mean, "alpha_stddev": config.epsilon_stddev}
    with torch.no_grad():
        multipliers = duals()
    return torch.cat([torch.full_like(multipliers[name], given[name]) for name in alphas])
