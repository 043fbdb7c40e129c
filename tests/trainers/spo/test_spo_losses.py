import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from trainers.distributions import mask_logits
from trainers.spo.duals import Duals
from trainers.spo.losses import MStep, discrete_m_step, e_step, gaussian_m_step, mean
from trainers.spo.policies import DiscretePolicy, SquashedGaussianPolicy

B, K, A = 6, 5, 3


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform_prior(*shape: int) -> torch.Tensor:
    return torch.full(shape, -math.log(shape[-1]), dtype=torch.float64)


# the temperature


def dual_of(advantage: torch.Tensor, prior: torch.Tensor, eta: torch.Tensor, epsilon: float) -> torch.Tensor:
    return eta * (epsilon + e_step(advantage, prior, eta).log_mean.mean())


def slow_temperature(advantage: np.ndarray, prior: np.ndarray, eta: float, epsilon: float) -> tuple[float, float]:
    logs, kls = [], []
    for row, log_p in zip(advantage, prior, strict=True):
        terms = [math.exp(log_p[i] + row[i] / eta) for i in range(len(row))]
        total = sum(terms)
        logs.append(math.log(total))
        kls.append(sum(term / total * (math.log(term / total) - log_p[i]) for i, term in enumerate(terms)))
    return eta * (epsilon + float(np.mean(logs))), float(np.mean(kls))


@pytest.mark.parametrize("eta", [0.3, 1.0, 7.0])
def test_dual_of_the_temperature_is_its_equation(eta: float) -> None:
    advantage, prior, temperature = random(B, K), random(B, K, seed=1).log_softmax(-1), torch.tensor(eta).double()
    dual, kl = slow_temperature(advantage.numpy(), prior.numpy(), eta, 0.4)
    assert float(dual_of(advantage, prior, temperature, 0.4)) == pytest.approx(dual)
    assert float(e_step(advantage, prior, temperature).kl.mean()) == pytest.approx(kl)


@pytest.mark.parametrize("eta", [0.2, 0.9, 4.0])
def test_slope_of_the_dual_is_epsilon_less_the_kl(eta: float) -> None:
    advantage, prior, temperature = random(B, K), uniform_prior(B, K), torch.tensor(eta).double()
    above, below = (dual_of(advantage, prior, temperature + step, 0.3) for step in (1e-6, -1e-6))
    slack = 0.3 - float(e_step(advantage, prior, temperature).kl.mean())
    assert float(above - below) / 2e-6 == pytest.approx(slack, abs=1e-8)


def test_dual_of_the_temperature_is_convex() -> None:
    etas = torch.linspace(0.05, 5, 200, dtype=torch.float64)
    duals = torch.stack([dual_of(random(B, K), uniform_prior(B, K), eta, 0.3) for eta in etas])
    assert (duals[2:] - 2 * duals[1:-1] + duals[:-2] > -1e-12).all()


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_temperature_survives_advantages_far_beyond_it(scale: float) -> None:
    found = e_step(random(B, K).float() * scale, uniform_prior(B, K).float(), torch.tensor(1.0))
    assert torch.isfinite(torch.cat(found)).all()
    assert float(found.kl.mean()) == pytest.approx(math.log(K), rel=1e-3)


def test_no_advantage_means_no_kl() -> None:
    found = e_step(torch.zeros(B, K), uniform_prior(B, K).float(), torch.tensor(0.5))
    assert float(found.kl.mean()) == pytest.approx(0.0, abs=1e-6)


def test_impossible_futures_do_not_count_for_the_temperature() -> None:
    prior = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0, -1.0, 1e5]], dtype=torch.float64)
    with_it = e_step(advantage, prior, torch.tensor(0.7))
    without = e_step(advantage[:, :2], prior[:, :2], torch.tensor(0.7))
    assert torch.equal(torch.stack(with_it), torch.stack(without))


@pytest.mark.parametrize("part", ["advantage", "temperature"])
def test_what_is_no_number_is_not_hidden(part: str) -> None:
    advantage, temperature = random(1, K), torch.tensor(0.7)
    if part == "advantage":
        advantage[0, 2] = math.nan
    else:
        temperature.fill_(math.nan)
    assert torch.isnan(torch.cat(e_step(advantage, uniform_prior(1, K), temperature))).all()


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
    found = discrete_m_step(DiscretePolicy([A]), params, target, action, weight)
    policy, kl = slow_discrete(params.numpy(), target.numpy(), action.numpy(), weight.numpy())
    assert float(-found.log_likelihood.mean()) == pytest.approx(policy)
    assert found.kl.shape == (B, 1)
    assert float(found.kl.mean()) == pytest.approx(kl)


def test_kl_is_never_negative_and_0_where_nothing_has_moved() -> None:
    params, target, action, weight = discrete_case()
    same = discrete_m_step(DiscretePolicy([A]), params, params, action, weight)
    moved = discrete_m_step(DiscretePolicy([A]), params, target, action, weight)
    torch.testing.assert_close(same.kl, torch.zeros(B, 1, dtype=torch.float64))
    assert (moved.kl > 0).all()


def test_uniform_weights_of_the_policys_own_draws_pull_nowhere() -> None:
    logits = random(1, A).requires_grad_()
    probability = logits.detach().softmax(-1)
    action = torch.arange(A).unsqueeze(0)
    found = discrete_m_step(DiscretePolicy([A]), logits.log_softmax(-1), probability.log(), action, probability)
    (gradient,) = torch.autograd.grad(found.log_likelihood.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros(1, A, dtype=torch.float64))


def test_illegal_actions_leave_losses_and_gradients_finite() -> None:
    policy, outputs = DiscretePolicy([A]), random(B, A).float().requires_grad_()
    mask = torch.tensor([[1, 0, 1]]).expand(B, A)
    params = policy.params(mask_logits(outputs, mask))
    target = policy.params(mask_logits(random(B, A, seed=5).float(), mask))
    action, weight = torch.arange(A).expand(B, A), torch.tensor([[0.6, 0.0, 0.4]]).expand(B, A)
    found = discrete_m_step(policy, params, target, action, weight)
    (gradient,) = torch.autograd.grad(found.kl.sum() - found.log_likelihood.sum(), outputs)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 1] == 0).all()
    assert all(torch.isfinite(part).all() for part in found)
    assert float(found.entropy.max()) <= math.log(2) + 1e-6


# means and deviations


def gaussian_case() -> tuple[torch.Tensor, ...]:
    params = torch.cat([random(B, A), random(B, A, seed=1).exp()], -1)
    target = torch.cat([random(B, A, seed=2), random(B, A, seed=3).exp()], -1)
    return params, target, random(B, K, A, seed=4), random(B, K, seed=5).softmax(-1)


def gaussian_policy() -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy([-1.0] * A, [1.0] * A)


def gaussian_step(params: torch.Tensor, *, per_dim: bool = True) -> MStep:
    _, target, action, weight = gaussian_case()
    return gaussian_m_step(gaussian_policy(), params, target, action, weight, is_per_dimension=per_dim)


@pytest.mark.parametrize("per_dim", [True, False])
def test_gaussian_m_step_is_its_equations(per_dim: bool) -> None:
    params, target, action, weight = gaussian_case()
    found = gaussian_step(params, per_dim=per_dim)
    (mean_o, std_o), (mean_t, std_t) = params.chunk(2, -1), target.chunk(2, -1)
    half_log_2_pi = 0.5 * math.log(2 * math.pi)  # left out: it does not depend on the parameters
    fixed_std = Normal(mean_o.unsqueeze(1), std_t.unsqueeze(1)).log_prob(action).sum(-1) + A * half_log_2_pi
    fixed_mean = Normal(mean_t.unsqueeze(1), std_o.unsqueeze(1)).log_prob(action).sum(-1) + A * half_log_2_pi
    torch.testing.assert_close(found.log_likelihood, (weight * (fixed_std + fixed_mean)).sum(-1))

    kl_mean = kl_divergence(Normal(mean_t, std_t), Normal(mean_o, std_t))
    kl_std = kl_divergence(Normal(mean_t, std_t), Normal(mean_t, std_o))
    if not per_dim:
        kl_mean, kl_std = kl_mean.sum(1, keepdim=True), kl_std.sum(1, keepdim=True)
    torch.testing.assert_close(found.kl, torch.cat([kl_mean, kl_std], 1))


@pytest.mark.parametrize("moved", ["mean", "std"])
def test_decoupled_kls_are_the_whole_kl_where_only_one_part_has_moved(moved: str) -> None:
    params, target, _, _ = gaussian_case()
    (mean_t, std_t), (mean_o, std_o) = target.chunk(2, -1), params.chunk(2, -1)
    online = torch.cat([mean_o, std_t], -1) if moved == "mean" else torch.cat([mean_t, std_o], -1)
    whole = kl_divergence(Normal(mean_t, std_t), Normal(*online.chunk(2, -1))).sum(-1)
    torch.testing.assert_close(gaussian_step(online).kl.sum(1), whole)


def test_mean_and_deviation_are_learnt_apart() -> None:
    params, target, action, weight = gaussian_case()
    params.requires_grad_()
    (gradient,) = torch.autograd.grad(-gaussian_step(params).log_likelihood.sum(), params)
    mean_t, std_t = target.chunk(2, -1)
    mean_o, std_o = params.detach().chunk(2, -1)
    pull = (weight.unsqueeze(-1) * (action - mean_o.unsqueeze(1))).sum(1) / std_t.square()
    torch.testing.assert_close(gradient[:, :A], -pull)
    spread = (weight.unsqueeze(-1) * (action - mean_t.unsqueeze(1)).square()).sum(1)
    torch.testing.assert_close(gradient[:, A:], 1 / std_o - spread / std_o**3)


def test_entropies() -> None:
    params, target, action, weight = discrete_case()
    params[0] = torch.tensor([0.25, 0.75 - 1e-12, 1e-12]).log()
    choice = discrete_m_step(DiscretePolicy([A]), params, target, action, weight)
    assert float(choice.entropy[0]) == pytest.approx(0.5623351446)
    params = gaussian_case()[0]
    expected = Normal(*params.chunk(2, -1)).entropy().sum(-1)
    torch.testing.assert_close(gaussian_step(params).entropy, expected)


# rows that do not count


def test_rows_that_do_not_count_are_no_part_of_a_mean() -> None:
    valid, rows = torch.tensor([1.0, 1, 0, 1, 0, 1], dtype=torch.float64), random(B, 2).requires_grad_()
    means = mean(rows, valid)
    torch.testing.assert_close(means, rows[valid > 0].mean(0))
    (gradient,) = torch.autograd.grad(means.sum(), rows)
    torch.testing.assert_close(gradient, valid[:, None].expand(B, 2) / 4)


def test_mean_of_no_row_at_all_is_0() -> None:
    assert mean(torch.ones(2, 3), torch.zeros(2)).tolist() == [0.0, 0.0, 0.0]


# multipliers


@pytest.mark.parametrize("value", [1e-6, 0.01, 0.974, 3.05, 500.0])
def test_multipliers_start_where_they_are_told_to(value: float) -> None:
    duals = Duals(temperature=(value, 1), alpha=(1.0, 3))
    assert float(duals()["temperature"].detach()) == pytest.approx(value, rel=1e-3)
    assert duals()["alpha"].shape == (3,)


def test_multipliers_stay_positive_and_can_still_be_learnt() -> None:
    duals = Duals(alpha=(1.0, 1))
    with torch.no_grad():
        duals.raw.fill_(-1e6)
    duals.clamp_()
    assert 0 < float(duals()["alpha"].detach()) < 1e-6
    (gradient,) = torch.autograd.grad(duals()["alpha"].sum(), duals.raw)
    assert float(gradient) > 0


def test_fixed_multiplier_is_itself_and_no_parameter() -> None:
    duals = Duals({"temperature": 0.1}, alpha=(1.0, 1))
    assert duals()["temperature"].tolist() == torch.tensor([0.1]).tolist()
    assert [name for name, _ in duals.named_parameters()] == ["raw"]
    other = Duals({"temperature": 7.0}, alpha=(3.0, 1))
    other.load_state_dict(duals.state_dict())
    assert other()["temperature"].tolist() == duals()["temperature"].tolist()
