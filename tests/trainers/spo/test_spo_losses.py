import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from trainers.distributions import mask_logits
from trainers.spo.duals import Duals
from trainers.spo.losses import (
    critic_loss,
    discrete_m_step,
    entropy_of_choices,
    entropy_of_gaussian,
    gaussian_m_step,
    mean,
    temperature_loss,
)
from trainers.spo.policies import DiscretePolicy, SquashedGaussianPolicy

B, K, A = 6, 5, 3


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_valid(count: int = B) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def uniform_prior(*shape: int) -> torch.Tensor:
    return torch.full(shape, -math.log(shape[-1]), dtype=torch.float64)


# the temperature


def slow_temperature(advantage: np.ndarray, prior: np.ndarray, eta: float, epsilon: float) -> tuple[float, float]:
    logs, kls = [], []
    for row, log_p in zip(advantage, prior, strict=True):
        terms = [math.exp(log_p[i] + row[i] / eta) for i in range(len(row))]
        total = sum(terms)
        logs.append(math.log(total))
        kls.append(sum(term / total * (math.log(term / total) - log_p[i]) for i, term in enumerate(terms)))
    return eta * (epsilon + float(np.mean(logs))), float(np.mean(kls))


@pytest.mark.parametrize("eta", [0.3, 1.0, 7.0])
def test_temperature_loss_is_its_equation(eta: float) -> None:
    advantage, prior = random(B, K), random(B, K, seed=1).log_softmax(-1)
    found = temperature_loss(advantage, prior, torch.tensor(eta, dtype=torch.float64), 0.4, all_valid())
    loss, kl = slow_temperature(advantage.numpy(), prior.numpy(), eta, 0.4)
    assert float(found.loss) == pytest.approx(loss)
    assert float(found.kl) == pytest.approx(kl)


@pytest.mark.parametrize("eta", [0.2, 0.9, 4.0])
def test_temperature_stands_still_exactly_where_the_kl_is_epsilon(eta: float) -> None:
    temperature = torch.tensor(eta, dtype=torch.float64, requires_grad=True)
    found = temperature_loss(random(B, K), uniform_prior(B, K), temperature, 0.3, all_valid())
    (gradient,) = torch.autograd.grad(found.loss, temperature)
    assert float(gradient) == pytest.approx(0.3 - float(found.kl))


def test_temperature_loss_is_convex() -> None:
    etas = torch.linspace(0.05, 5, 200, dtype=torch.float64)
    losses = torch.stack(
        [temperature_loss(random(B, K), uniform_prior(B, K), eta, 0.3, all_valid()).loss for eta in etas]
    )
    assert (losses[2:] - 2 * losses[1:-1] + losses[:-2] > -1e-12).all()


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_temperature_survives_advantages_far_beyond_it(scale: float) -> None:
    temperature = torch.tensor(1.0, requires_grad=True)
    found = temperature_loss(random(B, K).float() * scale, uniform_prior(B, K).float(), temperature, 0.3, torch.ones(B))
    (gradient,) = torch.autograd.grad(found.loss, temperature)
    assert torch.isfinite(torch.stack([found.loss, found.kl, gradient])).all()
    assert float(found.kl) == pytest.approx(math.log(K), rel=1e-3)


def test_no_advantage_means_no_kl() -> None:
    found = temperature_loss(torch.zeros(B, K), uniform_prior(B, K).float(), torch.tensor(0.5), 0.3, torch.ones(B))
    assert float(found.kl) == pytest.approx(0.0, abs=1e-6)


def test_impossible_futures_do_not_count_for_the_temperature() -> None:
    prior = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0, -1.0, 1e5]], dtype=torch.float64)
    with_it = temperature_loss(advantage, prior, torch.tensor(0.7), 0.3, all_valid(1))
    without = temperature_loss(advantage[:, :2], prior[:, :2], torch.tensor(0.7), 0.3, all_valid(1))
    assert torch.equal(torch.stack(with_it), torch.stack(without))


# choices


def slow_discrete(
    params: np.ndarray, target: np.ndarray, action: np.ndarray, weight: np.ndarray
) -> tuple[float, float]:
    policy = -np.mean([sum(weight[b][k] * params[b][action[b][k]] for k in range(K)) for b in range(B)])
    kl = np.mean([sum(math.exp(target[b][a]) * (target[b][a] - params[b][a]) for a in range(A)) for b in range(B)])
    return float(policy), float(kl)


def discrete_case() -> tuple[torch.Tensor, ...]:
    params, target = random(B, A).log_softmax(-1), random(B, A, seed=1).log_softmax(-1)
    action = torch.randint(A, (B, K), generator=torch.Generator().manual_seed(2))
    return params, target, action, random(B, K, seed=3).softmax(-1)


def test_discrete_m_step_is_its_equations() -> None:
    params, target, action, weight = discrete_case()
    found = discrete_m_step(DiscretePolicy([A]), params, target, action, weight, torch.tensor(2.5), 0.01, all_valid())
    policy, kl = slow_discrete(params.numpy(), target.numpy(), action.numpy(), weight.numpy())
    assert float(found.policy) == pytest.approx(policy)
    assert float(found.kl) == pytest.approx(kl)
    assert float(found.trust) == pytest.approx(2.5 * kl)
    assert float(found.alpha) == pytest.approx(2.5 * (0.01 - kl))


def test_kl_is_never_negative_and_0_where_nothing_has_moved() -> None:
    params, target, action, weight = discrete_case()
    same = discrete_m_step(DiscretePolicy([A]), params, params, action, weight, torch.tensor(1.0), 0.01, all_valid())
    moved = discrete_m_step(DiscretePolicy([A]), params, target, action, weight, torch.tensor(1.0), 0.01, all_valid())
    assert float(same.kl) == pytest.approx(0.0, abs=1e-12)
    assert float(moved.kl) > 0


@pytest.mark.parametrize(("shift", "rises"), [(0.0, False), (3.0, True)])
def test_alpha_rises_exactly_where_the_policy_has_moved_too_far(shift: float, rises: bool) -> None:
    params, _, action, weight = discrete_case()
    target = (params + torch.tensor([shift, 0.0, 0.0])).log_softmax(-1)
    alpha = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    found = discrete_m_step(DiscretePolicy([A]), params, target, action, weight, alpha, 0.01, all_valid())
    (gradient,) = torch.autograd.grad(found.alpha, alpha)
    assert (float(gradient) < 0) == rises  # down the gradient is up for alpha
    assert (float(found.kl) > 0.01) == rises


def test_policy_learns_from_the_trust_region_and_alpha_does_not() -> None:
    params, target, action, weight = discrete_case()
    params.requires_grad_()
    alpha = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    found = discrete_m_step(DiscretePolicy([A]), params, target, action, weight, alpha, 0.01, all_valid())
    assert torch.autograd.grad(found.trust, [params, alpha], allow_unused=True, retain_graph=True)[1] is None
    assert torch.autograd.grad(found.alpha, [params, alpha], allow_unused=True)[0] is None


def test_uniform_weights_of_the_policys_own_draws_pull_nowhere() -> None:
    logits = random(1, A).requires_grad_()
    probability = logits.detach().softmax(-1)
    action = torch.arange(A).unsqueeze(0)
    found = discrete_m_step(
        DiscretePolicy([A]), logits.log_softmax(-1), probability.log(), action, probability, torch.tensor(0.0), 0.01,
        all_valid(1),
    )  # fmt: skip
    torch.testing.assert_close(torch.autograd.grad(found.policy, logits)[0], torch.zeros(1, A, dtype=torch.float64))


def test_illegal_actions_leave_losses_and_gradients_finite() -> None:
    policy, outputs = DiscretePolicy([A]), random(B, A).float().requires_grad_()
    mask = torch.tensor([[1, 0, 1]]).expand(B, A)
    params = policy.params(mask_logits(outputs, mask))
    target = policy.params(mask_logits(random(B, A, seed=5).float(), mask))
    action, weight = torch.arange(A).expand(B, A), torch.tensor([[0.6, 0.0, 0.4]]).expand(B, A)
    found = discrete_m_step(policy, params, target, action, weight, torch.tensor(1.0), 0.01, torch.ones(B))
    (gradient,) = torch.autograd.grad(found.policy + found.trust, outputs)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 1] == 0).all()
    assert torch.isfinite(torch.stack(found)).all()
    assert float(entropy_of_choices(params.detach()).max()) <= math.log(2) + 1e-6


# means and deviations


def gaussian_case() -> tuple[torch.Tensor, ...]:
    params = torch.cat([random(B, A), random(B, A, seed=1).exp()], -1)
    target = torch.cat([random(B, A, seed=2), random(B, A, seed=3).exp()], -1)
    return params, target, random(B, K, A, seed=4), random(B, K, seed=5).softmax(-1)


def gaussian_policy() -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy([-1.0] * A, [1.0] * A)


@pytest.mark.parametrize("per_dim", [True, False])
def test_gaussian_m_step_is_its_equations(per_dim: bool) -> None:
    params, target, action, weight = gaussian_case()
    size = A if per_dim else 1
    alpha_mean, alpha_std = random(size, seed=6).exp(), random(size, seed=7).exp()
    found = gaussian_m_step(
        gaussian_policy(), params, target, action, weight, alpha_mean, alpha_std, 0.05, 5e-4, all_valid()
    )
    (mean_o, std_o), (mean_t, std_t) = params.chunk(2, -1), target.chunk(2, -1)
    half_log_2_pi = 0.5 * math.log(2 * math.pi)  # left out: it does not depend on the parameters
    fixed_std = Normal(mean_o.unsqueeze(1), std_t.unsqueeze(1)).log_prob(action).sum(-1) + A * half_log_2_pi
    fixed_mean = Normal(mean_t.unsqueeze(1), std_o.unsqueeze(1)).log_prob(action).sum(-1) + A * half_log_2_pi
    assert float(found.policy) == pytest.approx(float(-(weight * (fixed_std + fixed_mean)).sum(-1).mean()))

    kl_mean = kl_divergence(Normal(mean_t, std_t), Normal(mean_o, std_t)).mean(0)
    kl_std = kl_divergence(Normal(mean_t, std_t), Normal(mean_t, std_o)).mean(0)
    assert float(found.kl) == pytest.approx(float((kl_mean + kl_std).sum()))
    if not per_dim:
        kl_mean, kl_std = kl_mean.sum(0, keepdim=True), kl_std.sum(0, keepdim=True)
    assert float(found.trust) == pytest.approx(float((alpha_mean * kl_mean + alpha_std * kl_std).sum()))
    expected = (alpha_mean * (0.05 - kl_mean) + alpha_std * (5e-4 - kl_std)).sum()
    assert float(found.alpha) == pytest.approx(float(expected))


@pytest.mark.parametrize("moved", ["mean", "std"])
def test_decoupled_kls_are_the_whole_kl_where_only_one_part_has_moved(moved: str) -> None:
    params, target, action, weight = gaussian_case()
    (mean_t, std_t), (mean_o, std_o) = target.chunk(2, -1), params.chunk(2, -1)
    online = torch.cat([mean_o, std_t], -1) if moved == "mean" else torch.cat([mean_t, std_o], -1)
    one = torch.ones(A, dtype=torch.float64)
    found = gaussian_m_step(gaussian_policy(), online, target, action, weight, one, one, 0.05, 5e-4, all_valid())
    whole = kl_divergence(Normal(mean_t, std_t), Normal(*online.chunk(2, -1))).sum(-1).mean()
    assert float(found.kl) == pytest.approx(float(whole))


def test_mean_and_deviation_are_learnt_apart() -> None:
    params, target, action, weight = gaussian_case()
    params.requires_grad_()
    one = torch.zeros(A, dtype=torch.float64)
    found = gaussian_m_step(gaussian_policy(), params, target, action, weight, one, one, 0.05, 5e-4, all_valid())
    (gradient,) = torch.autograd.grad(found.policy, params)
    mean_t, std_t = target.chunk(2, -1)
    mean_o, std_o = params.detach().chunk(2, -1)
    pull = (weight.unsqueeze(-1) * (action - mean_o.unsqueeze(1))).sum(1) / std_t.square()
    torch.testing.assert_close(gradient[:, :A], -pull / B)
    spread = (weight.unsqueeze(-1) * (action - mean_t.unsqueeze(1)).square()).sum(1)
    torch.testing.assert_close(gradient[:, A:], (1 / std_o - spread / std_o**3) / B)


def test_entropies() -> None:
    assert float(entropy_of_choices(torch.tensor([[0.25, 0.75]]).log())[0]) == pytest.approx(0.5623351446)
    params = torch.tensor([[0.0, 0.0, 0.5, 2.0]])
    expected = Normal(torch.zeros(2), torch.tensor([0.5, 2.0])).entropy().sum()
    assert float(entropy_of_gaussian(params)[0]) == pytest.approx(float(expected))


# rows that do not count


def test_dummy_rows_count_for_nothing_whatever_they_hold() -> None:
    params, target, action, weight = discrete_case()
    valid = torch.tensor([1.0, 1, 0, 1, 0, 1], dtype=torch.float64)
    keep = valid > 0
    ruined = params.clone()
    ruined[~keep] = math.nan
    args = (torch.tensor(1.0), 0.01)
    found = discrete_m_step(DiscretePolicy([A]), ruined, target, action, weight, *args, valid)
    without = discrete_m_step(
        DiscretePolicy([A]), params[keep], target[keep], action[keep], weight[keep], *args, all_valid(4)
    )
    torch.testing.assert_close(torch.stack(found), torch.stack(without))
    assert float(critic_loss(ruined[:, 0], target[:, 0], valid)) == pytest.approx(
        float(0.5 * (params - target)[keep, 0].square().mean())
    )
    assert float(mean(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 0.0, 1.0]))) == 2.0


# multipliers


@pytest.mark.parametrize("value", [1e-6, 0.01, 0.974, 3.05, 500.0])
def test_multipliers_start_where_they_are_told_to(value: float) -> None:
    duals = Duals(temperature=(value, 1), alpha=(1.0, 3))
    assert float(duals()["temperature"].detach()) == pytest.approx(value, rel=1e-3)
    assert duals()["alpha"].shape == (3,)


def test_multipliers_stay_positive_and_can_still_be_learnt() -> None:
    duals = Duals(alpha=(1.0, 1))
    with torch.no_grad():
        duals.raw["alpha"].fill_(-1e6)
    duals.clamp_()
    assert 0 < float(duals()["alpha"].detach()) < 1e-6
    (gradient,) = torch.autograd.grad(duals()["alpha"].sum(), duals.raw["alpha"])
    assert float(gradient) > 0


def test_fixed_multiplier_is_itself_and_no_parameter() -> None:
    duals = Duals({"temperature": 0.1}, alpha=(1.0, 1))
    assert duals()["temperature"].tolist() == torch.tensor([0.1]).tolist()
    assert [name for name, _ in duals.named_parameters()] == ["raw.alpha"]
    other = Duals({"temperature": 7.0}, alpha=(3.0, 1))
    other.load_state_dict(duals.state_dict())
    assert other()["temperature"].tolist() == duals()["temperature"].tolist()
