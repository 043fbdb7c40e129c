"""Small worlds for the tests of SPO: random tables, networks that look up, and a slow search in float64."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.simulators import Outcome, Simulator, State
from trainers.simulators.observed import ObservedModel
from trainers.spo.noise import SearchNoise
from trainers.spo.policies import DiscretePolicy, SearchPolicy
from trainers.spo.search import SearchResult, search

CPU = torch.device("cpu")


class TableModel(ObservedModel):
    """A random deterministic world: S states, A actions, rewards, and some ends."""

    def __init__(self, num_states: int, num_actions: int, *, end_probability: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (num_states, num_actions)
        self.following = torch.from_numpy(rng.integers(0, num_states, shape))
        self.reward = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        self.ends = torch.from_numpy(rng.random(shape) < end_probability)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        state_B = state_BS[:, 0].long()
        entry = state_B, action
        return Outcome(self.following[entry].float().unsqueeze(1), self.reward[entry], self.ends[entry])


class TableNetwork:
    """Logits and values of each state, as tables."""

    def __init__(self, logits_SA: Tensor, value_S: Tensor) -> None:
        self.logits, self.values = logits_SA, value_S

    def policy(self, obs: Tensor) -> Tensor:
        return self.logits[obs[:, 0].long()]

    def value(self, obs: Tensor) -> Tensor:
        return self.values[obs[:, 0].long()]


@dataclass
class World:
    """A simulator, a network that knows nothing, and what to search with."""

    num_states: int = 40
    num_actions: int = 3
    num_envs: int = 5
    end_probability: float = 0.15
    limit: int | None = None
    seed: int = 0
    elapsed: int = 0
    model: Any = None
    network: Any = None
    policy: DiscretePolicy = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed + 1)
        shape = (self.num_states, self.num_actions)
        if self.model is None:
            self.model = TableModel(*shape, end_probability=self.end_probability, seed=self.seed)
        if self.network is None:
            logits = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
            self.network = TableNetwork(logits, torch.from_numpy(rng.normal(size=shape[0]).astype(np.float32)))
        self.policy = DiscretePolicy([self.num_actions])
        self.simulator = Simulator(self.model, self.limit)
        self.root_obs = torch.from_numpy(rng.integers(0, self.num_states, (self.num_envs, 1)).astype(np.float32))

    @property
    def root(self) -> State:
        return self.simulator.restore(self.root_obs, torch.full((self.num_envs,), self.elapsed, dtype=torch.int32))

    def search(self, settings: SearchConfig, temperature: float = 0.7, seed: int = 3, **changes: Any) -> SearchResult:
        noise = changes.pop("noise", None) or draw(self.policy, settings, self.num_envs, seed)
        function = changes.pop("function", search)
        return function(
            self.network,
            self.policy,
            self.simulator,
            settings,
            torch.tensor(temperature),
            self.root,
            self.root_obs,
            noise,
        )


def rules(**changes: Any) -> SearchConfig:
    """Resampling at every fourth step, unless it is said otherwise."""
    return SearchConfig.model_validate({"resampling": "period", **changes})


def draw(policy: SearchPolicy, settings: SearchConfig, num_envs: int, seed: int, model_noise: int = 0) -> SearchNoise:
    noise = SearchNoise.allocate(num_envs, policy, settings, model_noise, CPU)
    return noise.draw_(policy, settings.root_noise_concentration, torch.Generator().manual_seed(seed))


def search_slowly(world: World, settings: SearchConfig, temperature: float, noise: SearchNoise) -> dict[str, Any]:
    """The specification, one particle after the other, in float64."""
    shape = (world.num_envs, settings.num_particles)
    result = {"action": np.zeros(shape, int), "weight": np.zeros(shape), "advantage": np.zeros(shape)}
    for n in range(world.num_envs):
        result["action"][n], result["weight"][n], result["advantage"][n] = _one_env(
            world, settings, temperature, noise, n
        )
    return result


def _one_env(world: World, settings: SearchConfig, temperature: float, noise: SearchNoise, n: int) -> Any:
    num_particles, gamma = settings.num_particles, settings.search_gamma
    decay = gamma * settings.search_gae_lambda
    state = [int(world.root_obs[n, 0])] * num_particles
    elapsed = [world.elapsed] * num_particles
    value = [float(world.network.values[s]) for s in state]
    alive = [True] * num_particles
    log_weight, advantage = np.zeros(num_particles), np.zeros(num_particles)
    action = [_draw(world, state[i], float(noise.action[0, n, i, 0])) for i in range(num_particles)]
    root_action = list(action)
    has_resampled = False
    for t in range(settings.search_depth):
        for i in range(num_particles):
            if not alive[i]:
                continue
            entry = state[i], action[i]
            ends = bool(world.model.ends[entry])
            state[i] = int(world.model.following[entry])
            elapsed[i] += 1
            following = 0.0 if ends else float(world.network.values[state[i]])
            delta = float(world.model.reward[entry]) + gamma * following - value[i]
            log_weight[i] += gamma**t * delta
            if not has_resampled:
                advantage[i] += decay**t * delta
            alive[i] = not ends and not (world.limit is not None and elapsed[i] >= world.limit)
            value[i] = float(world.network.values[state[i]])
        weight = _softmax(log_weight / temperature)
        if t == settings.search_depth - 1:
            break
        if _is_due(settings, t, weight):
            chosen = _systematic(weight, float(noise.resample[t, n, 0]))
            state, value, alive, root_action, elapsed = (
                [part[i] for i in chosen] for part in (state, value, alive, root_action, elapsed)
            )
            log_weight[:] = 0
            has_resampled = True
        action = [_draw(world, state[i], float(noise.action[t + 1, n, i, 0])) for i in range(num_particles)]
    return root_action, weight, advantage


def _is_due(settings: SearchConfig, t: int, weight: Any) -> bool:
    if settings.resampling == "period":
        return (t + 1) % settings.resampling_period == 0
    if settings.resampling == "ess":
        return bool(1 / (weight**2).sum() < settings.ess_threshold * len(weight))
    return False


def _draw(world: World, state: int, uniform: float) -> int:
    probability = _softmax(world.network.logits[state].double().numpy())
    return int(np.searchsorted(probability.cumsum() / probability.sum(), uniform, side="right"))


def _systematic(weight: Any, uniform: float) -> list[int]:
    cdf = weight.cumsum() / weight.sum()
    return [int(np.searchsorted(cdf, (i + uniform) / len(weight), side="right")) for i in range(len(weight))]


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def enumerate_slowly(world: World, settings: SearchConfig, temperature: float, n: int) -> Any:
    """q(a) of one environment from every action sequence there is, in float64."""
    total = np.zeros(world.num_actions)
    futures = []
    for actions in itertools.product(range(world.num_actions), repeat=settings.search_depth):
        state, log_prior, gain, alive = int(world.root_obs[n, 0]), 0.0, 0.0, True
        value = float(world.network.values[state])
        for t, action in enumerate(actions):
            log_prior += math.log(_softmax(world.network.logits[state].double().numpy())[action])
            if not alive:
                continue
            ends = bool(world.model.ends[state, action])
            reward = float(world.model.reward[state, action])
            state = int(world.model.following[state, action])
            following = 0.0 if ends else float(world.network.values[state])
            gain += settings.search_gamma**t * (reward + settings.search_gamma * following - value)
            value, alive = float(world.network.values[state]), not ends
        futures.append((actions[0], log_prior, gain))
    weight = _softmax(np.array([log_prior + gain / temperature for _, log_prior, gain in futures]))
    np.add.at(total, [action for action, _, _ in futures], weight)
    return total
