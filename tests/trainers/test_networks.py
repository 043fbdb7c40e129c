from typing import Any

import pytest
import torch
from torch import nn

from trainers.networks import Activation, ActorCritic, Mlp, NatureCnn, ObsEncoder, tanh
from trainers.observations import Leaf, ObsLayout


def actor_critic(num_inputs: int, num_outputs: int, **settings: Any) -> ActorCritic:
    return ActorCritic(ObsLayout.vector(num_inputs), num_outputs, **settings)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def is_orthogonal(weight: torch.Tensor, gain: float) -> bool:
    rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
    expected = gain**2 * torch.eye(rows.shape[0])
    return torch.allclose(rows @ rows.T, expected, atol=1e-5 * gain**2)


def test_weights_are_orthogonal_with_the_gain_of_their_place() -> None:
    network = actor_critic(8, 3, hidden_sizes=(16, 12), generator=generator())
    trunks = linears(network.actor_trunk) + linears(network.critic_trunk)
    assert [is_orthogonal(layer.weight, 2**0.5) for layer in trunks] == [True] * 4
    assert is_orthogonal(network.policy_head.weight, 0.01)
    assert is_orthogonal(network.value_head.weight, 1.0)
    assert all(not layer.bias.any() for layer in linears(network))


def test_seed_fixes_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (actor_critic(4, 2, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(linears(first)[0].weight, linears(other)[0].weight)


@pytest.mark.parametrize("shared", [False, True])
def test_forward_is_policy_and_value_together(shared: bool) -> None:
    network = actor_critic(5, 3, shared=shared, generator=generator())
    obs = torch.randn(7, 5)
    params, value = network(obs)
    assert (params.shape, value.shape) == ((7, 3), (7,))
    assert torch.equal(params, network.policy(obs))
    assert torch.equal(value, network.value(obs))


@pytest.mark.parametrize("shared", [False, True])
def test_every_parameter_belongs_to_exactly_one_group(shared: bool) -> None:
    network = actor_critic(5, 3, num_free=3, shared=shared)
    grouped = [*network.actor_parameters(), *network.critic_parameters()]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in network.parameters()}


def test_separate_trunks_share_no_gradient() -> None:
    network = actor_critic(5, 3)
    network.value(torch.randn(2, 5)).sum().backward()
    assert all(parameter.grad is None for parameter in network.actor_parameters())


def test_free_parameters_follow_the_outputs_and_start_at_zero() -> None:
    network = actor_critic(5, 2, num_free=2, generator=generator())
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
    network = Mlp(3, (4, 4), name, generator())
    x = torch.randn(6, 3)
    first, second = linears(network)
    torch.testing.assert_close(network(x), function(second(function(first(x)))))


def test_no_hidden_layers_make_a_linear_policy() -> None:
    network, obs = actor_critic(5, 3, hidden_sizes=()), torch.randn(2, 5)
    assert torch.equal(network.policy(obs), network.policy_head(obs))


@pytest.mark.parametrize("rows", [1, 2**14])
def test_tanh_and_its_gradient_are_those_of_torch_at_any_size(rows: int) -> None:
    x = torch.linspace(-12, 12, 64).expand(rows, 64).clone().requires_grad_()
    ours, theirs = tanh(x), torch.tanh(x)
    torch.testing.assert_close(ours, theirs, atol=2e-7, rtol=0.0)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=5e-7, rtol=0.0)


# -- encoders: each leaf by what it means

NESTED = ObsLayout(
    (
        Leaf(("obs", "speed"), (2,)),
        Leaf(("obs", "count"), (), "number", 0, 100),
        Leaf(("obs", "action_mask"), (3,), "mask"),
        Leaf(("obs", "colour"), (2,), "symbol", -1, 2),
        Leaf(("obs", "height"), ()),
    )
)


def test_leaves_lie_side_by_side() -> None:
    assert NESTED.shape == (9,)
    assert NESTED.columns("obs", "colour") == slice(6, 8)
    assert (NESTED.mask, ObsLayout.vector(3).mask) == (slice(3, 6), None)


def test_each_leaf_is_encoded_by_what_it_means() -> None:
    obs = torch.tensor([[0.5, -3.0, 25.0, 1.0, 0.0, 1.0, -1.0, 2.0, 7.0]])
    encoded = ObsEncoder(NESTED)(obs)
    numbers, colours = [0.5, -3.0, 0.25, 7.0], [1, 0, 0, 0, 0, 0, 0, 1]
    assert encoded.tolist() == [[*numbers, *colours]]


def test_value_that_is_no_symbol_becomes_nothing() -> None:
    encoder = ObsEncoder(ObsLayout((Leaf(("obs",), (1,), "symbol", 0, 2),)))
    assert encoder(torch.tensor([[1.0], [3.0], [-1.0], [0.5]])).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_flat_vector_passes_untouched() -> None:
    obs = torch.randn(3, 4)
    assert ObsEncoder(ObsLayout.vector(4))(obs) is obs


def test_statistics_take_in_numbers_only() -> None:
    encoder = ObsEncoder(NESTED, normalizes=True)
    obs = torch.randn(50, 9)
    encoder.observe(obs)
    encoded = encoder(obs)
    numbers = obs[:, [0, 1, 2, 8]]
    expected = (numbers - numbers.mean(0)) / numbers.std(0, correction=0)
    torch.testing.assert_close(encoded[:, :4], expected, atol=1e-5, rtol=1e-5)
    assert ((encoded[:, 4:] == 0) | (encoded[:, 4:] == 1)).all()


def test_statistics_are_saved_with_the_network() -> None:
    first, second = (ActorCritic(NESTED, 3, normalizes_obs=True, generator=generator(seed)) for seed in (0, 1))
    first.encoder.observe(torch.randn(20, 9))
    second.load_state_dict(first.state_dict())
    obs = torch.randn(5, 9)
    assert torch.equal(first.policy(obs), second.policy(obs))
    assert not list(first.encoder.parameters())


def test_illegal_actions_are_ruled_out_and_the_mask_is_no_feature() -> None:
    network = ActorCritic(NESTED, 3, generator=generator())
    obs = torch.randn(4, 9)
    obs[:, 3:6] = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    params, value = network(obs)
    assert ((params > -1e8) == (obs[:, 3:6] == 1)).all()
    assert torch.equal(params, network.policy(obs))
    assert params.log_softmax(-1).isfinite().all()
    obs[:, 3:6] = 1.0
    assert torch.equal(network.value(obs), value)


@pytest.mark.parametrize("shape", [(4, 84, 84), (96, 96, 3), (72, 96, 4)])
def test_convolutions_are_those_of_nature(shape: tuple[int, int, int]) -> None:
    cnn = NatureCnn(shape, generator())
    image = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=generator())
    channels_first = image if shape[0] == 4 else image.permute(0, 3, 1, 2)
    x = channels_first.float() / 255
    for conv in (cnn.first, *cnn.rest):
        assert isinstance(conv, nn.Conv2d)
        assert is_orthogonal(conv.weight.flatten(1), 2**0.5)
        x = conv(x).relu()
    features = cnn(image)
    torch.testing.assert_close(features, x.flatten(1), atol=1e-5, rtol=1e-5)
    assert features.shape == (2, cnn.num_features)
    assert [conv.kernel_size[0] for conv in (cnn.first, *cnn.rest)] == [8, 4, 3]


@pytest.mark.parametrize("shared", [False, True])
def test_images_pass_the_convolutions_of_both_trunks(shared: bool) -> None:
    layout = ObsLayout((Leaf(("obs",), (4, 84, 84), "image", 0, 255),))
    network = ActorCritic(layout, 6, hidden_sizes=(32,), activation="relu", shared=shared, generator=generator())
    image = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    params, value = network(image)
    assert (params.shape, value.shape) == ((3, 6), (3,))
    assert sum(isinstance(module, NatureCnn) for module in network.modules()) == (1 if shared else 2)
    (params.sum() + value.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("is_image", [False, True])
def test_half_precision_stays_inside_the_trunks(is_image: bool) -> None:
    layout = ObsLayout((Leaf(("obs",), (4, 84, 84), "image", 0, 255),)) if is_image else ObsLayout.vector(6)
    coarse, fine = (ActorCritic(layout, 3, uses_bf16=bf16, generator=generator()) for bf16 in (True, False))
    with torch.no_grad():
        fine.policy_head.weight.mul_(100.0)
        coarse.policy_head.weight.mul_(100.0)
    obs = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8) if is_image else torch.randn(5, 6)
    for a, b in zip(coarse(obs), fine(obs), strict=True):
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, atol=0.03, rtol=0.03)
    coarse.value(obs).sum().backward()
    assert {parameter.grad.dtype for parameter in coarse.critic_parameters() if parameter.grad is not None} == {
        torch.float32
    }
