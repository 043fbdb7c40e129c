import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution as TorchDistribution

from trainers.distributions import (
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
    make_distribution,
    mask_logits,
)

SIZES = (3, 2, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def params_of(distribution: Distribution, *shape: int, seed: int = 0) -> Tensor:
    size = distribution.num_outputs + distribution.num_free
    return torch.randn(*shape, size, dtype=torch.float64, generator=generator(seed))


def torch_gaussian(params: Tensor) -> TorchDistribution:
    mean, log_std = params.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_categorical_agrees_with_torch() -> None:
    ours, p, q = Categorical(5), params_of(Categorical(5), 7), params_of(Categorical(5), 7, seed=1)
    theirs = TorchCategorical(logits=p)
    action = torch.arange(7) % 5
    log_prob, entropy = ours.log_prob_and_entropy(p, action)
    torch.testing.assert_close(log_prob, theirs.log_prob(action))
    torch.testing.assert_close(entropy, theirs.entropy())
    torch.testing.assert_close(ours.kl(p, q), kl_divergence(theirs, TorchCategorical(logits=q)))
    assert torch.equal(ours.mode(p), p.argmax(-1))


def test_gaussian_agrees_with_torch() -> None:
    ours, p, q = DiagGaussian(3), params_of(DiagGaussian(3), 7), params_of(DiagGaussian(3), 7, seed=1)
    theirs, action = torch_gaussian(p), torch.randn(7, 3, dtype=torch.float64)
    log_prob, entropy = ours.log_prob_and_entropy(p, action)
    torch.testing.assert_close(log_prob, theirs.log_prob(action))
    torch.testing.assert_close(entropy, theirs.entropy())
    torch.testing.assert_close(ours.kl(p, q), kl_divergence(theirs, torch_gaussian(q)))
    assert torch.equal(ours.mode(p), p[:, :3])


def test_multi_categorical_is_the_sum_of_its_dimensions() -> None:
    ours = MultiCategorical(SIZES)
    p, q = params_of(ours, 6), params_of(ours, 6, seed=1)
    heads = [TorchCategorical(logits=head) for head in p.split(list(SIZES), -1)]
    others = [TorchCategorical(logits=head) for head in q.split(list(SIZES), -1)]
    action = torch.stack([torch.arange(6) % size for size in SIZES], -1)
    log_prob, entropy = ours.log_prob_and_entropy(p, action)
    expected = torch.stack([head.log_prob(action[:, i]) for i, head in enumerate(heads)]).sum(0)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(entropy, torch.stack([head.entropy() for head in heads]).sum(0))
    kls = [kl_divergence(head, other) for head, other in zip(heads, others, strict=True)]
    torch.testing.assert_close(ours.kl(p, q), torch.stack(kls).sum(0))
    assert torch.equal(ours.mode(p), torch.stack([head.logits.argmax(-1) for head in heads], -1))


def test_gumbel_noise_samples_the_softmax() -> None:
    distribution, n = Categorical(3), 200_000
    params = torch.tensor([1.0, 0.0, -1.0])
    noise = distribution.draw_noise_(torch.empty(n, 3), generator())
    frequency = distribution.sample(params, noise).bincount(minlength=3) / n
    torch.testing.assert_close(frequency, params.softmax(-1), atol=4e-3, rtol=0.0)


def test_each_dimension_of_a_multi_categorical_samples_its_own_softmax() -> None:
    distribution, n = MultiCategorical((2, 3)), 200_000
    params = torch.tensor([0.5, -0.5, 1.0, 0.0, -1.0])
    action = distribution.sample(params, distribution.draw_noise_(torch.empty(n, 5), generator()))
    for dimension, logits in enumerate(params.split([2, 3])):
        frequency = action[:, dimension].bincount(minlength=logits.numel()) / n
        torch.testing.assert_close(frequency, logits.softmax(-1), atol=4e-3, rtol=0.0)
    covariance = torch.cov(action.T.double())
    assert abs(float(covariance[0, 1])) < 4e-3


def test_gaussian_sample_shifts_and_scales_its_noise() -> None:
    params = torch.tensor([1.0, -2.0, 0.0, float(torch.tensor(3.0).log())])
    action = DiagGaussian(2).sample(params, torch.tensor([[0.5, -1.0]]))
    torch.testing.assert_close(action, torch.tensor([[1.5, -5.0]]))


@pytest.mark.parametrize("distribution", [Categorical(4), MultiCategorical(SIZES), DiagGaussian(2)])
def test_same_seed_draws_the_same_noise(distribution: Distribution) -> None:
    shape = (50, 6, distribution.num_noise)
    first = distribution.draw_noise_(torch.empty(shape), generator(3))
    assert torch.equal(first, distribution.draw_noise_(torch.empty(shape), generator(3)))
    assert not torch.equal(first, distribution.draw_noise_(torch.empty(shape), generator(4)))
    assert first.isfinite().all()


@pytest.mark.parametrize("distribution", [Categorical(4), MultiCategorical(SIZES), DiagGaussian(2)])
def test_parameters_broadcast_over_several_actions_of_one_state(distribution: Distribution) -> None:
    params = params_of(distribution, 5)
    noise = distribution.draw_noise_(torch.empty(5, 9, distribution.num_noise, dtype=torch.float64), generator())
    action = distribution.sample(params[:, None], noise)
    log_prob, _ = distribution.log_prob_and_entropy(params[:, None], action)
    expected = [distribution.log_prob_and_entropy(params, action[:, k])[0] for k in range(9)]
    torch.testing.assert_close(log_prob, torch.stack(expected, 1))


def legal_mask(*shape: int) -> Tensor:
    """About half of the actions, and at least one of each row."""
    mask = torch.rand(shape, generator=generator(5)) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    return mask


def test_masked_categorical_is_the_categorical_of_its_legal_actions() -> None:
    ours, mask = Categorical(6), legal_mask(50, 6)
    p, q = (mask_logits(params_of(ours, 50, seed=seed), mask) for seed in (0, 1))
    action = mask.int().argmax(-1)
    log_prob, entropy = ours.log_prob_and_entropy(p, action)
    kl = ours.kl(p, q)
    for row in range(50):
        theirs, other = (TorchCategorical(logits=params[row, mask[row]]) for params in (p, q))
        torch.testing.assert_close(log_prob[row], theirs.log_prob(torch.tensor(0)))  # the first legal one
        torch.testing.assert_close(entropy[row], theirs.entropy())
        torch.testing.assert_close(kl[row], kl_divergence(theirs, other))


@pytest.mark.parametrize("distribution", [Categorical(9), MultiCategorical((3, 3, 3))])
def test_illegal_action_is_never_chosen(distribution: Distribution) -> None:
    mask = legal_mask(20_000, 3, 3)
    mask = mask if isinstance(distribution, MultiCategorical) else mask.flatten(1).unsqueeze(1)
    logits = 50 * torch.randn(mask.flatten(1).shape, generator=generator())
    params = mask_logits(logits, mask.flatten(1))
    noise = distribution.draw_noise_(torch.empty(params.shape), generator(1))
    noise[:, 0] = 69.1  # as much as there can be
    for action in (distribution.sample(params, noise), distribution.mode(params)):
        assert mask.gather(-1, action.reshape(*mask.shape[:2], 1)).all()


def test_gradients_are_finite_whatever_is_illegal() -> None:
    logits = torch.randn(4, 3, requires_grad=True, generator=generator())
    mask = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    params = mask_logits(logits, mask)
    log_prob, entropy = Categorical(3).log_prob_and_entropy(params, torch.tensor([0, 2, 1, 1]))
    (log_prob + entropy + Categorical(3).kl(params, params.detach() * 0.5)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[mask == 0].any()


def bounded() -> tuple[SquashedGaussian, Tensor, Tensor]:
    low, high = torch.tensor([-1.0, -2.0, 0.0]).double(), torch.tensor([1.0, 2.0, 5.0]).double()
    return SquashedGaussian(low.tolist(), high.tolist()), low, high


def torch_squashed(params: Tensor, low: Tensor, high: Tensor) -> TransformedDistribution:
    mean, log_std = params.chunk(2, -1)
    transforms = [TanhTransform(cache_size=1), AffineTransform((low + high) / 2, (high - low) / 2, cache_size=1)]
    return TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), transforms)


def test_squashed_gaussian_agrees_with_torch() -> None:
    ours, low, high = bounded()
    p, q = (params_of(DiagGaussian(3), 7, seed=seed) * 0.3 for seed in (0, 1))
    theirs = torch_squashed(p, low, high)
    action = ours.sample(p, torch.randn(7, 3, dtype=torch.float64, generator=generator()))
    log_prob, entropy = ours.log_prob_and_entropy(p, action)
    torch.testing.assert_close(log_prob, theirs.log_prob(ours.to_env(action)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.kl(p, q), kl_divergence(torch_gaussian(p), torch_gaussian(q)))
    torch.manual_seed(0)
    drawn = theirs.sample((400_000,))
    torch.testing.assert_close(entropy, -theirs.log_prob(drawn).mean(0), atol=8e-3, rtol=0.0)
    assert torch.equal(ours.mode(p), p[:, :3])


def test_squashed_action_stays_within_its_bounds_and_has_a_finite_density_there() -> None:
    ours, low, high = bounded()
    action = torch.tensor([[-100.0, 50.0, -100.0], [20.0, -30.0, 1e4]], requires_grad=True)
    executed = ours.to_env(action).double()
    assert ((low <= executed) & (executed <= high)).all()
    log_prob, _ = ours.log_prob_and_entropy(torch.zeros(2, 6), action)
    log_prob.sum().backward()
    assert action.grad is not None
    assert log_prob.isfinite().all()
    assert action.grad.isfinite().all()


@pytest.mark.parametrize("std", [0.1, 1.0, 1.5])
def test_entropy_of_a_squashed_gaussian_is_exact_to_a_thousandth(std: float) -> None:
    ours = SquashedGaussian([-1.0], [1.0])
    mean = torch.linspace(-2, 2, 9).double().unsqueeze(-1)
    params = torch.cat([mean, torch.full_like(mean, std).log()], -1)
    z = torch.linspace(-9, 9, 20_001).double()
    u = mean + std * z
    weight = Normal(0.0, 1.0).log_prob(z).exp() * (z[1] - z[0])
    log_cosh = torch.logaddexp(u, -u) - torch.tensor(2.0).double().log()
    slope = (-2 * log_cosh * weight).sum(-1)  # 1 - tanh(u)^2 = 1 / cosh(u)^2
    expected = torch_gaussian(params).entropy() + slope
    _, entropy = ours.log_prob_and_entropy(params, mean)
    torch.testing.assert_close(entropy, expected, atol=1e-3, rtol=0.0)


def test_kind_of_action_decides_the_distribution() -> None:
    assert make_distribution("discrete", (3,)) == Categorical(3)
    assert make_distribution("multi_discrete", (3, 2)) == MultiCategorical((3, 2))
    assert make_distribution("continuous", (3,)) == DiagGaussian(3)
    assert isinstance(make_distribution("continuous", (1,), ([-1.0], [1.0])), SquashedGaussian)


@pytest.mark.parametrize("distribution", [Categorical(4), MultiCategorical(SIZES), DiagGaussian(2)])
def test_environment_executes_the_action_itself_unless_it_is_squashed(distribution: Distribution) -> None:
    action = torch.tensor([1, 0])
    assert distribution.to_env(action) is action
