import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, Normal, kl_divergence

from trainers.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical, make_distribution

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


def test_impossible_action_leaves_entropy_and_kl_finite() -> None:
    params = torch.tensor([[0.0, -torch.inf, 0.0]])
    log_prob, entropy = Categorical(3).log_prob_and_entropy(params, torch.tensor([0]))
    expected = torch.tensor([2.0]).log()
    torch.testing.assert_close((log_prob, entropy), (-expected, expected))
    assert torch.equal(Categorical(3).kl(params, torch.zeros(1, 3)), torch.tensor([3.0]).log() - expected)


def test_kind_of_action_decides_the_distribution() -> None:
    assert make_distribution("discrete", (3,)) == Categorical(3)
    assert make_distribution("multi_discrete", (3, 2)) == MultiCategorical((3, 2))
    assert make_distribution("continuous", (3,)) == DiagGaussian(3)
