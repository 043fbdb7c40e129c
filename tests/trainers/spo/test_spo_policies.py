import math

import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from trainers.spo.policies import EDGE, DiscretePolicy, SquashedGaussianPolicy

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])


def gaussian() -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy(LOW, HIGH)


def draws(policy: DiscretePolicy | SquashedGaussianPolicy, params: torch.Tensor, count: int) -> torch.Tensor:
    noise = policy.draw_noise_(torch.zeros(count, policy.num_noise), torch.Generator().manual_seed(0))
    return policy.sample(params.expand(count, -1), noise)


def test_choices_come_with_their_probabilities() -> None:
    policy = DiscretePolicy(4)
    params = policy.params(torch.tensor([[0.3, -1.0, 2.0, 0.0]]), torch.zeros(1, 1))
    frequency = draws(policy, params, 100_000).bincount(minlength=4) / 100_000
    torch.testing.assert_close(frequency, params[0].exp(), atol=0.006, rtol=0)


def test_mask_takes_all_probability_from_illegal_choices() -> None:
    policy = DiscretePolicy(3, slice(1, 4))
    obs = torch.tensor([[9.0, 1, 0, 1], [9, 0, 0, 0]])
    params = policy.params(torch.zeros(2, 3), obs)
    torch.testing.assert_close(params.exp(), torch.tensor([[0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]))
    assert (draws(policy, params[:1], 1000) != 1).all()


def test_best_choice_has_the_greatest_sum_and_the_lowest_number_among_equals() -> None:
    policy = DiscretePolicy(4)
    action = torch.tensor([[3, 1, 3, 0], [2, 1, 2, 1]])
    weight = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert policy.best(action, weight).tolist() == [3, 1]
    torch.testing.assert_close(policy.aggregate(action, weight)[0], torch.tensor([0.1, 0.4, 0, 0.5]))


def test_log_probabilities_of_choices_are_looked_up() -> None:
    policy = DiscretePolicy(3)
    params = policy.params(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 1))
    expected = torch.tensor([1.0, 2.0, 3.0]).log_softmax(-1)[[2, 2, 0]]
    torch.testing.assert_close(policy.log_prob(params, torch.tensor([[2, 2, 0]]))[0], expected)


def test_dirichlet_noise_is_mixed_in_and_spares_illegal_choices() -> None:
    policy = DiscretePolicy(3)
    params = torch.tensor([[0.5, 0.5, 0.0]]).log()
    mixed = policy.mixed(params, torch.tensor([[1.0, 3.0, 4.0]]), 0.5).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.25 + 0.125, 0.25 + 0.375, 0.0]]))
    gamma = policy.draw_root_noise_(torch.zeros(20_000, 3), 0.5, torch.Generator().manual_seed(0))
    share = gamma / gamma.sum(-1, keepdim=True)
    # Dirichlet(c, c, c): variance (2 / 9) / (3 c + 1)
    assert float(share.var(0).mean()) == pytest.approx(2 / 9 / 2.5, rel=0.05)


def test_squashed_actions_stay_within_their_bounds() -> None:
    policy = gaussian()
    params = policy.params(torch.tensor([[3.0, -3.0, 2.0, 2.0]]), torch.zeros(1, 1))
    action = draws(policy, params, 10_000)
    assert (action >= LOW).all()
    assert (action <= HIGH).all()


def test_density_is_that_of_the_squashed_normal_variable() -> None:
    policy = gaussian()
    params = policy.params(torch.tensor([[0.3, -0.2, 0.1, -0.5]]), torch.zeros(1, 1))
    action = draws(policy, params, 500)
    inner = ((action - (LOW + HIGH) / 2).abs() < (HIGH - LOW) / 2 * (1 - 2 * EDGE)).all(-1)
    mean, std = params[0].chunk(2)
    squash = [TanhTransform(), AffineTransform((LOW + HIGH) / 2, (HIGH - LOW) / 2)]
    expected = TransformedDistribution(Normal(mean, std), squash).log_prob(action).sum(-1)
    found = policy.log_prob(params, action.unsqueeze(0))[0]
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-3, rtol=1e-3)


def test_probability_at_the_bounds_is_the_tail_spread_over_the_edge() -> None:
    policy = SquashedGaussianPolicy(torch.tensor([-1.0]), torch.tensor([1.0]))
    params = torch.tensor([[0.5, 1.8]], dtype=torch.float64)
    found = policy.log_prob(params, torch.tensor([[[1.0], [-1.0]]]).double())[0]
    edge = torch.tensor(math.atanh(1 - EDGE), dtype=torch.float64)
    normal = Normal(params[0, 0], params[0, 1])
    tails = torch.stack([1 - normal.cdf(edge), normal.cdf(-edge)])
    torch.testing.assert_close(found.exp(), tails / EDGE)


def test_squashed_density_integrates_to_1() -> None:
    policy = SquashedGaussianPolicy(torch.tensor([-3.0]), torch.tensor([1.0]))
    params = torch.tensor([[0.4, 1.3]], dtype=torch.float64)
    middle = torch.linspace(-3 + 2 * EDGE, 1 - 2 * EDGE, 200_001, dtype=torch.float64)
    inside = torch.trapezoid(policy.log_prob(params, middle.view(1, -1, 1))[0].exp(), middle)
    ends = policy.log_prob(params, torch.tensor([[[-3.0], [1.0]]]).double())[0].exp() * 2 * EDGE
    assert float(inside + ends.sum()) == pytest.approx(1.0, abs=1e-4)


def test_gradient_at_and_near_the_bounds_is_finite() -> None:
    policy = SquashedGaussianPolicy(torch.tensor([-1.0]), torch.tensor([1.0]))
    params = torch.tensor([[-8.0, 0.01]], requires_grad=True)
    action = torch.tensor([[[1.0], [-1.0], [0.9995], [0.999], [0.0]]])
    (gradient,) = torch.autograd.grad(policy.log_prob(params, action).sum(), params)
    assert torch.isfinite(gradient).all()


def test_best_action_of_a_continuum_is_the_weighted_mean() -> None:
    best = gaussian().best(torch.tensor([[[1.0, 0.2], [-1.0, 0.6]]]), torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(best, torch.tensor([[0.5, 0.3]]))


def test_continuous_exploration_blends_and_stays_within_bounds() -> None:
    policy = gaussian()
    params = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    noise = torch.zeros(1, 5, 2)
    root_noise = policy.draw_root_noise_(torch.zeros(1, 5, 2), 1.0, torch.Generator().manual_seed(0))
    assert (root_noise >= LOW).all()
    assert (root_noise <= HIGH).all()
    plain, mixed = (policy.explore(params, noise, root_noise, fraction) for fraction in (0.0, 0.25))
    torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * root_noise)


def test_noise_of_the_root_is_a_truncated_standard_normal() -> None:
    policy = SquashedGaussianPolicy(torch.tensor([-0.5]), torch.tensor([2.0]))
    noise = policy.draw_root_noise_(torch.zeros(50_000, 1, 1), 1.0, torch.Generator().manual_seed(0))
    density = [math.exp(-(x**2) / 2) for x in torch.linspace(-0.5, 2, 2001).tolist()]
    grid = torch.linspace(-0.5, 2, 2001)
    weights = torch.tensor(density) / sum(density)
    assert float(noise.mean()) == pytest.approx(float((weights * grid).sum()), abs=0.01)
