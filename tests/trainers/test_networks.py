import pytest
import torch
from torch import nn

from trainers.networks import Activation, ActorCritic, Tanh, mlp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def is_orthogonal(weight: torch.Tensor, gain: float) -> bool:
    rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
    expected = gain**2 * torch.eye(rows.shape[0])
    return torch.allclose(rows @ rows.T, expected, atol=1e-5 * gain**2)


def test_weights_are_orthogonal_with_the_gain_of_their_place() -> None:
    network = ActorCritic(8, 3, hidden_sizes=(16, 12), generator=generator())
    trunks = linears(network.actor_trunk) + linears(network.critic_trunk)
    assert [is_orthogonal(layer.weight, 2**0.5) for layer in trunks] == [True] * 4
    assert is_orthogonal(network.policy_head.weight, 0.01)
    assert is_orthogonal(network.value_head.weight, 1.0)
    assert all(not layer.bias.any() for layer in linears(network))


def test_seed_fixes_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (ActorCritic(4, 2, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(linears(first)[0].weight, linears(other)[0].weight)


@pytest.mark.parametrize("shared", [False, True])
def test_forward_is_policy_and_value_together(shared: bool) -> None:
    network = ActorCritic(5, 3, shared=shared, generator=generator())
    obs = torch.randn(7, 5)
    params, value = network(obs)
    assert (params.shape, value.shape) == ((7, 3), (7,))
    assert torch.equal(params, network.policy(obs))
    assert torch.equal(value, network.value(obs))


@pytest.mark.parametrize("shared", [False, True])
def test_every_parameter_belongs_to_exactly_one_group(shared: bool) -> None:
    network = ActorCritic(5, 3, num_free=3, shared=shared)
    grouped = [*network.actor_parameters(), *network.critic_parameters()]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in network.parameters()}


def test_separate_trunks_share_no_gradient() -> None:
    network = ActorCritic(5, 3)
    network.value(torch.randn(2, 5)).sum().backward()
    assert all(parameter.grad is None for parameter in network.actor_parameters())


def test_free_parameters_follow_the_outputs_and_start_at_zero() -> None:
    network = ActorCritic(5, 2, num_free=2, generator=generator())
    assert torch.equal(network.policy(torch.randn(4, 5))[:, 2:], torch.zeros(4, 2))
    assert network.free is not None
    with torch.no_grad():
        network.free.copy_(torch.tensor([1.0, -1.0]))
    assert torch.equal(network.policy(torch.randn(4, 5))[:, 2:], torch.tensor([1.0, -1.0]).expand(4, 2))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", torch.tanh),
        ("relu", torch.relu),
        ("elu", nn.functional.elu),
        ("gelu", nn.functional.gelu),
    ],
)
def test_activation_follows_every_hidden_layer(name: Activation, function: torch.nn.Module) -> None:
    network = mlp(3, (4, 4), name, generator())
    x = torch.randn(6, 3)
    first, second = linears(network)
    torch.testing.assert_close(network(x), function(second(function(first(x)))))


def test_no_hidden_layers_make_a_linear_policy() -> None:
    network, obs = ActorCritic(5, 3, hidden_sizes=()), torch.randn(2, 5)
    assert torch.equal(network.policy(obs), network.policy_head(obs))


@pytest.mark.parametrize("rows", [1, 2**14])
def test_tanh_and_its_gradient_are_those_of_torch_at_any_size(rows: int) -> None:
    x = torch.linspace(-12, 12, 64).expand(rows, 64).clone().requires_grad_()
    ours, theirs = Tanh()(x), torch.tanh(x)
    torch.testing.assert_close(ours, theirs, atol=2e-7, rtol=0.0)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=5e-7, rtol=0.0)
