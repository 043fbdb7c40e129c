import math

import pytest
import torch
from torch.distributions import Normal

from trainers.distributions import mask_logits
from trainers.spo.policies import DiscretePolicy, SquashedGaussianPolicy

LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]


def gaussian() -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy(LOW, HIGH)


def draws(policy: DiscretePolicy | SquashedGaussianPolicy, params: torch.Tensor, count: int) -> torch.Tensor:
    noise = policy.draw_noise_(torch.zeros(count, policy.num_noise), torch.Generator().manual_seed(0))
    return policy.sample(params.expand(count, -1), noise)


def test_choices_come_with_their_probabilities() -> None:
    policy = DiscretePolicy([4])
    params = policy.params(torch.tensor([[0.3, -1.0, 2.0, 0.0]]))
    frequency = draws(policy, params, 100_000).bincount(minlength=4) / 100_000
    torch.testing.assert_close(frequency, params[0].exp(), atol=0.006, rtol=0)


def test_masked_choices_are_never_drawn_and_an_empty_mask_leaves_all_alike() -> None:
    policy = DiscretePolicy([3])
    params = policy.params(mask_logits(torch.zeros(2, 3), torch.tensor([[1, 0, 1], [0, 0, 0]])))
    torch.testing.assert_close(params.exp(), torch.tensor([[0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]))
    assert (draws(policy, params[:1], 1000) != 1).all()


def test_several_choices_at_once_are_one_among_all_combinations() -> None:
    policy = DiscretePolicy([6, 1, 3], is_joint=True)
    assert policy.num_outputs == 18
    assert policy.to_env(torch.tensor([0, 2, 3, 17])).tolist() == [[0, 0, 0], [0, 0, 2], [1, 0, 0], [5, 0, 2]]
    assert DiscretePolicy([5]).to_env(torch.tensor([3])).tolist() == [3]
    assert policy.best(torch.tensor([[4, 7]]), torch.tensor([[0.3, 0.7]])).tolist() == [[2, 0, 1]]


def test_best_choice_has_the_greatest_sum_and_the_lowest_number_among_equals() -> None:
    policy = DiscretePolicy([4])
    action = torch.tensor([[3, 1, 3, 0], [2, 1, 2, 1]])
    weight = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert policy.best(action, weight).tolist() == [3, 1]
    torch.testing.assert_close(policy.masses(action, weight)[0], torch.tensor([0.1, 0.4, 0, 0.5]))


def test_log_probabilities_of_choices_are_looked_up() -> None:
    policy = DiscretePolicy([3])
    params = policy.params(torch.tensor([[1.0, 2.0, 3.0]]))
    expected = torch.tensor([1.0, 2.0, 3.0]).log_softmax(-1)[[2, 2, 0]]
    torch.testing.assert_close(policy.log_prob(params, torch.tensor([[2, 2, 0]]))[0], expected)


def test_dirichlet_noise_is_mixed_in_and_spares_illegal_choices() -> None:
    policy = DiscretePolicy([3])
    params = policy.params(mask_logits(torch.zeros(1, 3), torch.tensor([[1, 1, 0]])))
    mixed = policy.mixed(params, torch.tensor([[1.0, 3.0, 4.0]]), 0.5).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.25 + 0.125, 0.25 + 0.375, 0.0]]))
    gamma = policy.draw_root_noise_(torch.zeros(20_000, 3), 0.5, torch.Generator().manual_seed(0))
    share = gamma / gamma.sum(-1, keepdim=True)
    # Dirichlet(c, c, c): variance (2 / 9) / (3 c + 1)
    assert float(share.var(0).mean()) == pytest.approx(2 / 9 / 2.5, rel=0.05)


def test_squashed_actions_stay_within_their_bounds() -> None:
    policy = gaussian()
    action = policy.to_env(draws(policy, policy.params(torch.tensor([[3.0, -3.0, 2.0, 2.0]])), 10_000))
    assert (action >= torch.tensor(LOW)).all()
    assert (action <= torch.tensor(HIGH)).all()


def test_log_probability_is_that_of_the_normal_variable_up_to_a_constant() -> None:
    policy = gaussian()
    outputs = torch.tensor([[0.3, -0.2, 0.1, -0.5]])
    params = policy.params(outputs)
    u = draws(policy, params, 500)
    mean, std = outputs[0, :2], torch.nn.functional.softplus(outputs[0, 2:]) + 1e-3
    expected = Normal(mean, std).log_prob(u).sum(-1) + math.log(2 * math.pi)
    torch.testing.assert_close(policy.log_prob(params, u.unsqueeze(0))[0], expected)


def test_gradient_far_beyond_what_a_bound_can_tell_apart_is_finite() -> None:
    policy = gaussian()
    outputs = torch.zeros(1, 4, requires_grad=True)
    far = torch.tensor([[[40.0, -40.0]]])
    assert policy.to_env(far).tolist() == [[[2.0, 0.0]]]
    (gradient,) = torch.autograd.grad(policy.log_prob(policy.params(outputs), far).sum(), outputs)
    assert torch.isfinite(gradient).all()


def test_best_action_of_a_continuum_is_the_weighted_mean_of_what_is_executed() -> None:
    u = torch.atanh(torch.tensor([[[0.5, -0.6], [-0.5, 0.2]]]))
    best = gaussian().best(u, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(best, torch.tensor([[0.5, 0.75 * 0.2 + 0.25 * 0.6]]))


def test_continuous_exploration_blends_what_is_executed_and_stays_within_bounds() -> None:
    policy = gaussian()
    params = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    noise = torch.zeros(1, 500, 2)
    root_noise = policy.draw_root_noise_(torch.zeros(1, 500, 2), 1.0, torch.Generator().manual_seed(0))
    assert (root_noise >= torch.tensor(LOW)).all()
    assert (root_noise <= torch.tensor(HIGH)).all()
    plain, mixed = (policy.to_env(policy.explore(params, noise, root_noise, fraction)) for fraction in (0.0, 0.25))
    torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * root_noise)
    wild = policy.explore(params, noise, root_noise * 100, 1.0)
    assert torch.isfinite(wild).all()


def test_noise_of_the_root_is_a_truncated_standard_normal() -> None:
    policy = SquashedGaussianPolicy([-0.5], [2.0])
    noise = policy.draw_root_noise_(torch.zeros(50_000, 1, 1), 1.0, torch.Generator().manual_seed(0))
    density = [math.exp(-(x**2) / 2) for x in torch.linspace(-0.5, 2, 2001).tolist()]
    grid = torch.linspace(-0.5, 2, 2001)
    weights = torch.tensor(density) / sum(density)
    assert float(noise.mean()) == pytest.approx(float((weights * grid).sum()), abs=0.01)
