import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from spo_toys import TableModel, TableNetwork, World, draw, rules, search_slowly

from trainers.config import SearchConfig
from trainers.distributions import mask_logits
from trainers.simulators import Outcome
from trainers.simulators.observed import ObservedModel
from trainers.spo.noise import SearchNoise
from trainers.spo.search import search
from trainers.spo.tree import search_tree

RESAMPLING = [("none", 1), ("period", 1), ("period", 2), ("period", 3), ("ess", 1)]


@pytest.mark.parametrize(("resampling", "period"), RESAMPLING)
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8)])
@pytest.mark.parametrize("limit", [None, 3])
def test_search_is_the_specification_read_out_loud(
    resampling: Any, period: int, gamma: float, lam: float, limit: int | None
) -> None:
    settings = rules(
        num_particles=8,
        search_depth=6,
        resampling=resampling,
        resampling_period=period,
        search_gamma=gamma,
        search_gae_lambda=lam,
    )
    for seed in range(4):
        world = World(seed=seed, limit=limit, elapsed=1 if limit else 0)
        noise = draw(world.policy, settings, world.num_envs, seed)
        result, expected = world.search(settings, noise=noise), search_slowly(world, settings, 0.7, noise)
        assert result.action.tolist() == expected["action"].tolist()
        np.testing.assert_allclose(result.weight, expected["weight"], atol=2e-6)
        np.testing.assert_allclose(result.advantage, expected["advantage"], atol=1e-5)
        torch.testing.assert_close(result.value, world.network.value(world.root_obs))
        assert result.log_prior.exp().sum(-1).tolist() == pytest.approx([1.0] * world.num_envs)


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0, exclude_min=True), st.integers(1, 7))
def test_log_weights_telescope_to_the_bootstrapped_return_less_the_value_of_the_root(
    seed: int, gamma: float, depth: int
) -> None:
    world = World(seed=seed, end_probability=0.3)
    settings = rules(num_particles=6, search_depth=depth, resampling="none", search_gamma=gamma)
    noise = draw(world.policy, settings, world.num_envs, seed)
    result = world.search(settings, temperature=1.0, noise=noise)
    expected = np.array([
        [telescoped(world, settings, noise, n, i) for i in range(6)] for n in range(world.num_envs)
    ])  # fmt: skip
    shifted = np.exp(expected - expected.max(1, keepdims=True))
    np.testing.assert_allclose(result.weight, shifted / shifted.sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(result.advantage, expected, atol=1e-4)


def telescoped(world: World, settings: SearchConfig, noise: SearchNoise, n: int, i: int) -> float:
    """sum gamma^t r_t + gamma^tau (1 - terminated) V(s_tau) - V(s_0)."""
    state, total = int(world.root_obs[n, 0]), -float(world.network.values[int(world.root_obs[n, 0])])
    for t in range(settings.search_depth):
        probability = world.network.logits[state].double().softmax(-1).cumsum(-1)
        action = int(torch.searchsorted(probability, float(noise.action[t, n, i, 0]), right=True))
        total += settings.search_gamma**t * float(world.model.reward[state, action])
        ends, state = bool(world.model.ends[state, action]), int(world.model.following[state, action])
        if ends:
            return total
    return total + settings.search_gamma**settings.search_depth * float(world.network.values[state])


def test_looking_further_changes_nothing_once_all_are_dead() -> None:
    world = World(end_probability=1.0)
    short, long = (
        world.search(rules(search_depth=depth, resampling="none"), noise=draw_alike(world, depth)) for depth in (1, 6)
    )
    for a, b in zip(short[:5], long[:5], strict=True):
        assert torch.equal(a, b)
    assert [float(depth.alive_fraction.mean()) for depth in long.depths] == [0.0] * 6


def draw_alike(world: World, depth: int) -> SearchNoise:
    noise = draw(world.policy, rules(search_depth=6), world.num_envs, 0)
    return noise._replace(**{name: getattr(noise, name)[:depth] for name in ("action", "model", "resample")})


@pytest.mark.parametrize("function", [search, search_tree])
@pytest.mark.parametrize("poison", [math.nan, 1e9, math.inf])
def test_critic_of_a_terminal_state_is_never_heard(poison: float, function: Any) -> None:
    class TwoWays(ObservedModel):
        """Action 0 ends in state 2, action 1 goes on to state 1."""

        def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
            ends = action == 0
            state = torch.where(ends, 2.0, 1.0).unsqueeze(1)
            reward = torch.where(state_BS[:, 0] == 2, math.nan, 0.5)  # nothing after the end is heard, either
            return Outcome(state, reward, ends)

    def look(at_the_end: float) -> Any:
        network = TableNetwork(torch.zeros(3, 2), torch.tensor([0.3, -0.2, at_the_end]))
        world = World(num_states=3, num_actions=2, model=TwoWays(), network=network)
        world.root_obs = torch.zeros(5, 1)
        settings = rules(search_depth=5, resampling="ess", ess_threshold=0.9)
        return world.search(settings, function=function)

    clean, poisoned = look(0.0), look(poison)
    for a, b in zip(clean[:5], poisoned[:5], strict=True):
        assert torch.equal(a, b)
    assert torch.isfinite(poisoned.weight).all()


@pytest.mark.parametrize("function", [search, search_tree])
def test_truncated_future_is_bootstrapped_with_the_critic(function: Any) -> None:
    network = TableNetwork(torch.zeros(40, 3), torch.zeros(40))
    world = World(end_probability=0.0, limit=2, network=network)
    settings = rules(search_depth=4, resampling="none")
    before = world.search(settings, function=function)
    network.values = torch.full((40,), 5.0)  # the root's value is subtracted, the last one's added
    after = world.search(settings, function=function)
    torch.testing.assert_close(before.advantage, after.advantage)
    alive = [float(depth.alive_fraction.mean()) for depth in after.depths]
    assert alive == pytest.approx([1.0, 0.0, 0.0, 0.0])


class Hashing(ObservedModel):
    """Every action sequence leads to a state of its own, which can be read back from its number."""

    def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
        state = state_BS * 4 + action.unsqueeze(1) + 1
        reward = torch.sin(state[:, 0] * 12.9898) * 2
        return Outcome(state, reward, torch.zeros(len(state), dtype=torch.bool))


class Determined:
    """After the root there is one action in each state, which depends on the state."""

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        chosen = obs[:, 0].long() % 4
        one_hot = torch.nn.functional.one_hot(chosen, 4).float()
        return torch.where(obs == 0, torch.zeros_like(one_hot), one_hot * 80 - 40)

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(obs))


@pytest.mark.parametrize(("resampling", "period"), RESAMPLING[1:])
@pytest.mark.parametrize("reference", [(), ("resampler",)])
def test_state_root_action_and_last_action_keep_one_ancestor(
    resampling: Any, period: int, reference: tuple[Any, ...]
) -> None:
    settings = rules(
        num_particles=16, search_depth=5, resampling=resampling, resampling_period=period, ess_threshold=0.99,
        reference=reference,
    )  # fmt: skip
    assert mismatches(settings) == (0, 0)


def test_reference_draws_actions_for_states_that_are_gone() -> None:
    settings = rules(search_depth=5, resampling_period=1, reference=("lineage",))
    mixed_up, _ = mismatches(settings)
    assert mixed_up > 0


def mismatches(settings: SearchConfig) -> tuple[int, int]:
    """Particles whose action was not that of their state; and whose root action is not that of their state."""
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched(Hashing):
        def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
            taken.append((state_BS[:, 0].long(), action))
            return super().step(state_BS, action, noise_BZ)

    world = World(num_states=1, num_actions=4, num_envs=6, model=Watched(), network=Determined())
    result = world.search(settings)
    wrong_action = sum(int((state % 4 != action).sum()) for state, action in taken[1:])
    last_state, last_action = taken[-1]
    first = (last_state * 4 + last_action + 1).tolist()
    while max(first) > 4:
        first = [(number - 1) // 4 if number > 4 else number for number in first]
    root = [number - 1 for number in first]
    return wrong_action, int((result.action.flatten() != torch.tensor(root)).sum())


@pytest.mark.parametrize("resampling", ["none", "period", "ess"])
def test_no_advantage_anywhere_leaves_the_policy_as_it_is(resampling: Any) -> None:
    model = TableModel(40, 3, end_probability=0.0, seed=0)
    gamma = 0.9
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    model.reward = values.unsqueeze(1) - gamma * values[model.following]
    world = World(model=model, network=TableNetwork(torch.randn(40, 3), values))
    settings = rules(resampling=resampling, resampling_period=2, search_gamma=gamma)
    result = world.search(settings, temperature=1.0)
    torch.testing.assert_close(result.weight, torch.full_like(result.weight, 1 / 16), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.advantage, torch.zeros_like(result.advantage), atol=2e-6, rtol=0)


def test_weights_follow_the_particles_when_these_change_places() -> None:
    world = World()
    settings = rules(search_depth=4, resampling="none")
    noise = draw(world.policy, settings, world.num_envs, 0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    moved = noise._replace(action=noise.action[:, :, order])
    there, here = world.search(settings, noise=noise), world.search(settings, noise=moved)
    torch.testing.assert_close(there.weight[:, order], here.weight)
    assert torch.equal(there.action[:, order], here.action)
    torch.testing.assert_close(
        world.policy.masses(there.action, there.weight), world.policy.masses(here.action, here.weight)
    )


class Bandit(ObservedModel):
    """One step, four arms."""

    REWARD = torch.tensor([0.0, 0.3, 0.6, 1.0])

    def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
        return Outcome(state_BS, self.REWARD[action], torch.ones_like(action, dtype=torch.bool))


def bandit_q(num_particles: int, num_envs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """q of many searches, and what it tends to: pi exp(A / eta) / Z."""
    logits = torch.tensor([[0.5, 0.2, 0.0, -0.7]])
    network = TableNetwork(logits, torch.zeros(1))
    world = World(num_states=1, num_actions=4, num_envs=num_envs, model=Bandit(), network=network)
    settings = rules(num_particles=num_particles, search_depth=1)
    result = world.search(settings, temperature=0.5, seed=seed)
    exact = (logits[0] + Bandit.REWARD / 0.5).softmax(-1)
    return world.policy.masses(result.action, result.weight), exact


def test_bandit_tends_to_the_exact_improved_policy() -> None:
    q, exact = bandit_q(20_000, 1)
    torch.testing.assert_close(q[0], exact, atol=0.02, rtol=0)


def test_bias_of_the_bandit_falls_as_the_number_of_particles_grows() -> None:
    bias = {
        count: float((q.mean(0) - exact).abs().sum()) for count in (4, 16, 64) for q, exact in [bandit_q(count, 20_000)]
    }
    assert bias[16] < 0.4 * bias[4]
    assert bias[64] < 0.4 * bias[16]


class Chain(ObservedModel):
    """Seven states; action 1 steps right, 0 left; the right end pays 1 and ends."""

    def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
        state = (state_BS + 2 * action.unsqueeze(1) - 1).clamp(0, 6)
        ends = state[:, 0] == 6
        return Outcome(state, ends.float(), ends)


def chain_choices(num_particles: int, depth: int, *, knows_values: bool) -> float:
    """How often the best action is found from state 3, with a policy that knows nothing."""
    values = 0.9 ** (5 - torch.arange(7.0)) if knows_values else torch.zeros(7)
    world = World(
        num_states=7, num_actions=2, num_envs=400, model=Chain(), network=TableNetwork(torch.zeros(7, 2), values)
    )
    world.root_obs = torch.full((400, 1), 3.0)
    settings = rules(num_particles=num_particles, search_depth=depth, search_gamma=0.9)
    result = world.search(settings, temperature=0.05)
    return float((world.policy.best(result.action, result.weight) == 1).float().mean())


def test_chain_is_solved_with_exact_values_at_depth_1() -> None:
    assert chain_choices(64, 1, knows_values=True) > 0.99


def test_chain_is_solved_without_values_where_the_reward_is_within_reach() -> None:
    found = [chain_choices(count, 5, knows_values=False) for count in (4, 32, 512)]
    assert found[0] < found[1]
    assert found[2] > 0.99


def test_illegal_actions_are_never_drawn_and_get_nothing() -> None:
    class Masked(ObservedModel):
        """Observation: the mask of the state's legal actions, which turns round with every step."""

        def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
            assert bool((state_BS.gather(1, action.unsqueeze(1)) == 1).all())
            reward = torch.randn(len(action), generator=torch.Generator().manual_seed(0))
            return Outcome(state_BS.roll(1, 1), reward, torch.zeros_like(action, dtype=torch.bool))

    class Flat:
        def policy(self, obs: torch.Tensor) -> torch.Tensor:
            return mask_logits(torch.zeros_like(obs), obs)

        def value(self, obs: torch.Tensor) -> torch.Tensor:
            return obs.sum(1)

    world = World(num_states=1, num_actions=4, num_envs=3, model=Masked(), network=Flat())
    world.root_obs = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]])
    settings = rules(resampling="ess", root_noise_fraction=0.5, root_noise_concentration=0.3)
    result = world.search(settings)
    q = world.policy.masses(result.action, result.weight)
    assert (q[world.root_obs == 0] == 0).all()


def test_where_nothing_is_legal_the_search_stays_finite() -> None:
    world = World()
    world.root_obs = torch.zeros(5, 3)
    world.network.policy = lambda obs: mask_logits(torch.ones(len(obs), 3), obs)
    world.network.value = lambda obs: obs[:, 0]
    world.model.step = lambda state, action, noise: Outcome(  # type: ignore[method-assign]
        state, torch.zeros(len(state)), torch.ones(len(state), dtype=torch.bool)
    )
    result = world.search(rules())
    assert torch.isfinite(result.weight).all()


def test_root_noise_lets_the_root_try_what_the_policy_would_not() -> None:
    network = TableNetwork(torch.tensor([[30.0, 0.0, 0.0]]).expand(40, 3), torch.zeros(40))
    world = World(network=network, num_envs=200)
    quiet = world.search(rules())
    noisy = world.search(rules(root_noise_fraction=0.5))
    assert (quiet.action == 0).all()
    assert 0.2 < float((noisy.action > 0).float().mean()) < 0.45


@pytest.mark.parametrize("correction", ["readout", "resampler", "terminals", "lineage", "baseline"])
def test_each_correction_can_be_taken_back_and_makes_a_difference(correction: Any) -> None:
    settings = rules(search_depth=4, resampling_period=2, search_gamma=0.9)
    world = World(end_probability=0.3)
    back = settings.model_copy(update={"reference": (correction,)})
    noise = draw(world.policy, settings, world.num_envs, 0)
    if correction == "resampler":
        noise_back = draw(world.policy, back, world.num_envs, 0)._replace(action=noise.action)
    else:
        noise_back = noise
    ours, theirs = world.search(settings, noise=noise), world.search(back, noise=noise_back)
    changed = [not torch.equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True)]
    assert any(changed)
    if correction == "readout":
        torch.testing.assert_close(theirs.weight, torch.full_like(theirs.weight, 1 / 16))
    if correction == "terminals":
        assert changed == [False, False, True]


def test_reference_loses_the_advantage_of_an_end_from_depth_1_on() -> None:
    class EndsAt(ObservedModel):
        """A counter that ends at 2 with -10."""

        def step(self, state_BS: torch.Tensor, action: torch.Tensor, noise_BZ: torch.Tensor) -> Outcome:
            ends = state_BS[:, 0] == 1
            return Outcome(state_BS + 1, torch.where(ends, -10.0, 0.0), ends)

    world = World(num_states=9, num_envs=1, model=EndsAt(), network=TableNetwork(torch.zeros(9, 3), torch.zeros(9)))
    world.root_obs = torch.zeros(1, 1)
    ours = world.search(rules())
    theirs = world.search(rules(reference=("terminals",)))
    assert ours.advantage.unique().tolist() == [-10.0]
    assert theirs.advantage.unique().tolist() == [0.0]


def test_statistics_of_each_depth_are_plausible() -> None:
    result = World().search(rules(search_depth=4, resampling_period=2))
    assert [float(depth.resample_rate.mean()) for depth in result.depths] == [0.0, 1.0, 0.0, 0.0]
    alive = [float(depth.alive_fraction.mean()) for depth in result.depths]
    assert sorted(alive, reverse=True) == alive
    for depth in result.depths:
        assert 1 / 16 <= float(depth.ess_fraction.mean()) <= 1
        assert 0 <= float(depth.entropy.mean()) <= math.log(16) + 1e-6


def test_compiled_search_gives_what_the_plain_one_gives() -> None:
    world = World()
    settings = rules(num_particles=4, search_depth=2, resampling="period", resampling_period=1)
    noise = draw(world.policy, settings, world.num_envs, 0)
    compiled = torch.compile(search, fullgraph=True, dynamic=False, backend="aot_eager")
    plain = world.search(settings, noise=noise)
    for a, b in zip(plain[:5], world.search(settings, noise=noise, function=compiled)[:5], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("function", [search, search_tree])
def test_search_never_waits_for_the_device(function: Any) -> None:
    """On a meta device no number exists: whatever asked for one would raise."""
    world = World(num_states=4)
    for name in ("following", "reward", "ends"):
        setattr(world.model, name, getattr(world.model, name).to("meta"))
    network = TableNetwork(torch.zeros(4, 3, device="meta"), torch.zeros(4, device="meta"))
    settings = rules(resampling="ess", root_noise_fraction=0.2)
    noise = SearchNoise(*[part.to("meta") for part in draw(world.policy, settings, 5, 0)])
    obs, temperature = world.root_obs.to("meta"), torch.zeros((), device="meta")
    root = world.simulator.restore(obs, torch.zeros(5, dtype=torch.int32, device="meta"))
    result = function(network, world.policy, world.simulator, settings, temperature, root, obs, noise)
    assert result.weight.shape == (5, 16 if function is search else 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_graph_equals_the_eager_search_bit_for_bit(
    without_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    world, settings = World(), rules(resampling="ess")
    for name in ("following", "reward", "ends"):
        setattr(world.model, name, getattr(world.model, name).cuda())
    network = TableNetwork(world.network.logits.cuda(), world.network.values.cuda())
    noise = SearchNoise(*[part.cuda() for part in draw(world.policy, settings, world.num_envs, 0)])
    obs, temperature = world.root_obs.cuda(), torch.tensor(0.7, device="cuda")

    def look() -> Any:
        root = world.simulator.restore(obs, torch.zeros(world.num_envs, dtype=torch.int32, device="cuda"))
        return search(network, world.policy, world.simulator, settings, temperature, root, obs, noise)

    eager = look()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        look()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = look()
    with without_sync():
        graph.replay()
    for a, b in zip(eager[:5], captured[:5], strict=True):
        assert torch.equal(a, b)
