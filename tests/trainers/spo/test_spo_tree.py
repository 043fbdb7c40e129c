import math

import numpy as np
import pytest
import torch
from spo_toys import World, draw, enumerate_slowly, rules

from trainers.distributions import mask_logits
from trainers.simulators import Outcome
from trainers.simulators.observed import ObservedModel
from trainers.spo.search import search
from trainers.spo.tree import num_nodes, search_tree


@pytest.mark.parametrize(("depth", "gamma"), [(1, 1.0), (3, 1.0), (4, 0.8)])
def test_tree_is_the_sum_over_all_action_sequences(depth: int, gamma: float) -> None:
    for seed in range(3):
        world = World(seed=seed)
        settings = rules(search_depth=depth, search_gamma=gamma)
        result = world.search(settings, function=search_tree)
        expected = np.stack([enumerate_slowly(world, settings, 0.7, n) for n in range(world.num_envs)])
        np.testing.assert_allclose(result.weight, expected, atol=1e-5)
        assert result.action.tolist() == [[0, 1, 2]] * world.num_envs
        assert result.log_prior.shape == result.advantage.shape == (world.num_envs, 3**depth)
        torch.testing.assert_close(result.log_prior.exp().sum(-1), torch.ones(world.num_envs))


def test_particles_tend_to_the_tree_as_they_grow_in_number() -> None:
    world = World(num_envs=3)
    settings = rules(num_particles=20_000, search_depth=3, resampling="none")
    drawn, exact = world.search(settings), world.search(settings, function=search_tree)
    torch.testing.assert_close(world.policy.masses(drawn.action, drawn.weight), exact.weight, atol=0.02, rtol=0)
    for sampled, true in zip(drawn.depths, exact.depths, strict=True):
        assert float(sampled.ess_fraction.mean()) == pytest.approx(float(true.ess_fraction.mean()), abs=0.05)
        assert float(sampled.alive_fraction.mean()) == pytest.approx(float(true.alive_fraction.mean()), abs=0.02)


def test_temperature_sees_the_same_distribution_of_advantages_in_both() -> None:
    world = World(num_envs=3)
    settings = rules(num_particles=40_000, search_depth=3, resampling="none", search_gae_lambda=0.7)
    drawn, exact = world.search(settings), world.search(settings, function=search_tree)
    for result in (drawn, exact):
        assert result.advantage.shape == result.log_prior.shape
    means = [(result.log_prior.exp() * result.advantage).sum(-1) for result in (drawn, exact)]
    torch.testing.assert_close(*means, atol=0.05, rtol=0)


def test_illegal_actions_have_no_part_in_the_tree() -> None:
    class Masked(ObservedModel):
        """Shows which actions are legal; they turn round with every step."""

        def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
            wrong = state_BS.gather(1, action.unsqueeze(1))[:, 0] == 0
            reward = torch.where(wrong, math.nan, action.float())  # loud where it should not be heard
            return Outcome(state_BS.roll(1, 1), reward, torch.zeros_like(wrong))

    class Flat:
        def policy(self, obs: torch.Tensor) -> torch.Tensor:
            return mask_logits(torch.zeros_like(obs), obs)

        def value(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(obs))

    world = World(num_states=1, num_actions=3, num_envs=2, model=Masked(), network=Flat())
    world.root_obs = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    result = world.search(rules(search_depth=2), function=search_tree)
    assert (result.weight[world.root_obs == 0] == 0).all()
    assert torch.isfinite(result.weight).all()
    assert all(torch.isfinite(torch.stack(depth)).all() for depth in result.depths)


def test_root_noise_enters_the_tree_as_it_enters_the_particles() -> None:
    world = World(num_envs=2)
    settings = rules(num_particles=20_000, search_depth=2, resampling="none", root_noise_fraction=0.6)
    noise = draw(world.policy, settings, world.num_envs, 0)
    drawn, exact = (world.search(settings, noise=noise, function=function) for function in (search, search_tree))
    torch.testing.assert_close(world.policy.masses(drawn.action, drawn.weight), exact.weight, atol=0.02, rtol=0)
    quiet = world.search(settings.model_copy(update={"root_noise_fraction": 0.0}), noise=noise, function=search_tree)
    assert not torch.allclose(quiet.weight, exact.weight, atol=0.02)


def test_nodes_are_counted_below_the_root() -> None:
    assert [num_nodes(2, 4), num_nodes(3, 1), num_nodes(18, 2)] == [30, 3, 342]


def test_compiled_tree_gives_what_the_plain_one_gives() -> None:
    world, settings = World(num_envs=2), rules(search_depth=2)
    compiled = torch.compile(search_tree, fullgraph=True, dynamic=False, backend="aot_eager")
    plain, fast = (world.search(settings, function=function) for function in (search_tree, compiled))
    for a, b in zip(plain[:5], fast[:5], strict=True):
        torch.testing.assert_close(a, b)
