import copy

import pytest
import torch
from torch import nn

from trainers.optim import FlatAdam, clip_grad_norm_, linear_anneal


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def flat_adam(module: nn.Sequential, *, max_grad_norm: float = 0.5) -> FlatAdam:
    groups = [module[0].parameters(), module[2].parameters()]
    return FlatAdam(groups, (1e-2, 1e-3), max_grad_norm=max_grad_norm)


def run(module: nn.Module, optimizer: FlatAdam, steps: int, first: int = 0) -> list[float]:
    x = torch.randn(10, 16, 4, generator=torch.Generator().manual_seed(7))
    return [float(optimizer.minimize(module(batch).square().mean() * 50)) for batch in x[first : first + steps]]


def test_steps_are_those_of_adam_with_clipping_and_two_rates() -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizer = flat_adam(ours)
    groups = [{"params": theirs[0].parameters(), "lr": 1e-2}, {"params": theirs[2].parameters(), "lr": 1e-3}]
    adam = torch.optim.Adam(groups, eps=1e-5)
    x = torch.randn(10, 16, 4, generator=torch.Generator().manual_seed(7))
    for batch, norm in zip(x, run(ours, optimizer, 10), strict=True):
        adam.zero_grad()
        (theirs(batch).square().mean() * 50).backward()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)), rel=1e-4)
        adam.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_rate_zero_freezes_its_group_only() -> None:
    module = network()
    before = [parameter.clone() for parameter in module.parameters()]
    optimizer = flat_adam(module)
    optimizer.set_learning_rates((0.0, 1e-2))
    run(module, optimizer, 1)
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert moved == [False, False, True, True]


def test_weights_that_are_loaded_are_the_ones_that_are_optimised() -> None:
    module, source = network(), network(seed=5)
    optimizer = flat_adam(module)
    module.load_state_dict(source.state_dict())
    run(module, optimizer, 1)
    expected = network(seed=5)
    run(expected, flat_adam(expected), 1)
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_continues_bit_for_bit() -> None:
    straight = network()
    run(straight, flat_adam(straight), 6)
    first = network()
    optimizer = flat_adam(first)
    run(first, optimizer, 3)
    second = copy.deepcopy(first)
    resumed = flat_adam(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(second, resumed, 3, first=3)
    for a, b in zip(second.parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("max_norm", "expected"), [(10.0, [3.0, 4.0]), (2.5, [1.5, 2.0])])
def test_only_longer_gradients_are_scaled(max_norm: float, expected: list[float]) -> None:
    gradient = torch.tensor([3.0, 4.0])
    assert float(clip_grad_norm_(gradient, max_norm)) == 5.0
    torch.testing.assert_close(gradient, torch.tensor(expected), rtol=1e-6, atol=0.0)


def test_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    module = network()
    norm = flat_adam(module).minimize(module(torch.full((1, 4), torch.inf)).sum())
    assert not norm.isfinite()


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 2.0), (0.25, 1.5), (1.0, 0.0), (1.5, 0.0), (-1.0, 2.0)])
def test_annealing_is_a_straight_line_to_zero(progress: float, rate: float) -> None:
    assert linear_anneal(2.0, progress) == rate


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_step_that_is_not_finite_is_not_taken(poison: float, where: str) -> None:
    module = network()
    optimizer = flat_adam(module)
    run(module, optimizer, 2)
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    x = torch.ones(3, 4)
    if where == "gradient":
        x[1, 2] = poison
    loss = module(x).square().mean()
    optimizer.minimize(loss if where == "gradient" else loss + poison)
    after = module.state_dict(), optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)


def test_steps_after_one_that_was_not_taken_are_as_if_it_had_not_been() -> None:
    ours, theirs = network(), network()
    optimizer, other = flat_adam(ours), flat_adam(theirs)
    run(ours, optimizer, 2)
    optimizer.minimize(ours(torch.full((3, 4), torch.nan)).sum())
    run(ours, optimizer, 3, first=2)
    run(theirs, other, 5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
