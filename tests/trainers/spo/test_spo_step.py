"""One gradient step against the losses of the papers, written out in float64 and differentiated as they stand."""

import copy
import math
from typing import Any

import pytest
import torch
from spo_parts import Parts, weights
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from trainers.config import SpoSection
from trainers.rollout import collect
from trainers.spo.step import LOSS_METRICS, Batch

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class Written:
    """What a step should minimise, and what it should report."""

    def __init__(
        self, params: Tensor, value: Tensor, duals: dict[str, Tensor], batch: Batch, config: SpoSection
    ) -> None:
        eta = duals["temperature"]
        score = batch.log_prior + batch.advantage / eta
        self.dual = eta * (config.epsilon + score.logsumexp(-1).mean())
        u = score.softmax(-1)
        self.kl_e_step = torch.where(u > 0, u * (u.log() - batch.log_prior), 0.0).sum(-1).mean()
        self.critic = 0.5 * (value - batch.value_target).square().mean()
        if "alpha" in duals:
            self._of_choices(params, duals, batch, config)
        else:
            self._of_a_continuum(params, duals, batch, config)

    def _of_choices(self, params: Tensor, duals: dict[str, Tensor], batch: Batch, config: SpoSection) -> None:
        policy, target = Categorical(logits=params), Categorical(logits=batch.target_params)
        log_prob = torch.stack([policy.log_prob(action) for action in batch.action.unbind(1)], 1)
        self.policy = -(batch.weight * log_prob).sum(-1).mean()
        kl = kl_divergence(target, policy).mean()
        self.kl, self.entropy, alpha = kl, policy.entropy().mean(), duals["alpha"]
        self.trust = (alpha.detach() * kl).sum()
        self.alpha = (alpha * (config.epsilon_policy - kl.detach())).sum()

    def _of_a_continuum(self, params: Tensor, duals: dict[str, Tensor], batch: Batch, config: SpoSection) -> None:
        (mean, std), (mean_t, std_t) = params.chunk(2, -1), batch.target_params.chunk(2, -1)
        log_prob = sum(
            Normal(*[part.unsqueeze(1) for part in pair]).log_prob(batch.action).sum(-1) + mean.shape[1] * HALF_LOG_2_PI
            for pair in ((mean, std_t), (mean_t, std))
        )
        self.policy = -(batch.weight * log_prob).sum(-1).mean()
        kls = [kl_divergence(Normal(mean_t, std_t), Normal(*pair)).mean(0) for pair in ((mean, std_t), (mean_t, std))]
        self.kl, self.entropy = sum(kls).sum(), Normal(mean, std).entropy().sum(-1).mean()
        pairs = list(zip((duals["alpha_mean"], duals["alpha_stddev"]), kls, strict=True))
        self.trust = sum((alpha.detach() * kl).sum() for alpha, kl in pairs)
        bounds = (config.epsilon_mean, config.epsilon_stddev)
        self.alpha = sum(
            (alpha * (bound - kl.detach())).sum() for (alpha, kl), bound in zip(pairs, bounds, strict=True)
        )


def moved(task: str, **spo: Any) -> tuple[Parts, Batch]:
    """A learner whose policy is no longer the target's, and rows of its replay."""
    parts = Parts(task, spo=spo)
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    first, *_, last = parts.spo._batches.draw(parts.spo._keep(parts.storage))
    parts.spo._step.by_autograd(first)
    return parts, last


def doubled(batch: Batch) -> Batch:
    return Batch._make(part.double() if part.is_floating_point() else part for part in batch)


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v4"])
def test_step_follows_the_gradients_of_the_written_out_losses(task: str) -> None:
    parts, batch = moved(task)
    learner, rows, config = parts.spo, doubled(batch), parts.config.spo
    network, duals = copy.deepcopy(learner.network).double(), copy.deepcopy(learner._duals).double()
    outputs, value = network(rows.obs)
    written = Written(learner._plan.policy.params(outputs.float()).double(), value, duals(), rows, config)
    (written.policy + written.trust + written.critic + written.dual + written.alpha).backward()
    metrics = dict(zip(LOSS_METRICS, learner._step.by_autograd(batch).tolist(), strict=False))
    # each gradient as the optimiser has left it: scaled to its norm where it was too long
    for optimizer, theirs in zip(
        learner._optimizers, (network.actor_parameters(), network.critic_parameters(), duals.parameters()), strict=True
    ):
        gradients = [parameter.grad for parameter in theirs]
        expected = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        expected *= min(1.0, parts.config.optimization.max_grad_norm / float(expected.norm()))
        torch.testing.assert_close(optimizer.gradient_P.double(), expected, rtol=2e-3, atol=2e-6)
    assert metrics["actor_loss"] == pytest.approx(written.policy.item(), rel=1e-4)
    assert metrics["critic_loss"] == pytest.approx(written.critic.item(), rel=1e-4)
    assert metrics["entropy"] == pytest.approx(written.entropy.item(), rel=1e-4)
    assert metrics["approx_kl"] == metrics["kl_m_step"] == pytest.approx(written.kl.item(), rel=1e-3, abs=1e-6)
    assert metrics["kl_e_step"] == pytest.approx(written.kl_e_step.item(), rel=1e-4)
    assert metrics["mpo_temperature_loss"] == pytest.approx(written.dual.item(), rel=1e-4)
    assert metrics["mpo_alpha_loss"] == pytest.approx(written.alpha.item(), rel=1e-3, abs=1e-6)
    total = written.policy + written.trust + written.alpha + written.dual
    assert metrics["mpo_total_loss"] == pytest.approx(total.item(), rel=1e-3)


@pytest.mark.parametrize(("bound", "rises"), [(1e-8, True), (10.0, False)])
def test_alpha_rises_exactly_where_the_policy_has_moved_too_far(bound: float, rises: bool) -> None:
    parts, batch = moved("CartPole-v1", epsilon_policy=bound)
    before = float(parts.spo._duals()["alpha"].detach())
    kl = dict(zip(LOSS_METRICS, parts.spo._step.by_autograd(batch).tolist(), strict=False))["kl_m_step"]
    assert (kl > bound) == rises
    assert (float(parts.spo._duals()["alpha"].detach()) > before) == rises


def test_dummy_rows_move_nothing_whatever_they_hold() -> None:
    clean, poisoned = (Parts("CartPole-v1", spo={"targets": "sequences", "sequence_length": 4}) for _ in range(2))
    for parts in (clean, poisoned):
        parts.update(5)
        collect(parts.spo, parts.env, parts.storage, parts.episodes)
        parts.spo._keep(parts.storage)
    kept = poisoned.spo._replay.experience
    for part in (kept.weight, kept.advantage, kept.log_prior, kept.reward):
        part[~kept.valid] = math.nan
    num_dummies = 0
    for mine, theirs in zip(*(parts.spo._batches.draw(parts.spo._replay) for parts in (clean, poisoned)), strict=True):
        num_dummies += int((mine.valid == 0).sum())
        assert torch.equal(clean.spo._step.by_autograd(mine), poisoned.spo._step.by_autograd(theirs))
    assert num_dummies > 0
    assert torch.equal(weights(clean.spo), weights(poisoned.spo))
