"""How SPO acts: a search at every step, in training and in evaluation.

Shapes: T horizon, H depth, N environments, K atoms, M futures, X numbers of a finding.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.compilation import PLAIN, Execution, GraphedCall, compiled
from trainers.networks import ActorCritic
from trainers.rollout import RolloutStorage
from trainers.spo.noise import SearchNoise
from trainers.spo.replay import Experience
from trainers.spo.search import Depth, SearchResult
from trainers.spo.setup import SearchPlan
from trainers.spo.weights import entropy, resample

__all__ = ["Actor", "DeterministicPolicy", "GreedySearch", "name_statistics"]


class _Finding(NamedTuple):
    """What a rollout keeps of each search: in one tensor, which can be captured as an output and written at once."""

    atom: Tensor
    weight: Tensor
    advantage: Tensor
    log_prior: Tensor
    executed: Tensor
    statistics: Tensor

    def pack(self) -> Tensor:
        """[N, ...] each -> float32 [N, X]."""
        return torch.cat([part.flatten(1).float() for part in self], 1)


class Actor:
    """Searches in rollouts.

    Args:
        network: the online actor and critic.
        plan: what all searches have in common.
        generator: of the noise.
        execution: of searches; with a simulator on the host they can be neither compiled nor captured.
    """

    def __init__(
        self, network: ActorCritic, plan: SearchPlan, generator: torch.Generator, execution: Execution
    ) -> None:
        self._network, self._plan, self._generator = network, plan, generator
        device = generator.device
        if plan.simulator.is_on_host:
            execution = PLAIN
        self._look = compiled(self._look_plain, execution, device)
        self._uses_graphs = execution.uses_graphs
        self._graphs: dict[int, GraphedCall] = {}
        self._noise: SearchNoise | None = None
        self._temperature = torch.ones((), device=device)

    def extras(self, action_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """What the storage must have room for.

        Args:
            action_shape: of an environment's action.
        """
        return {"finding": (sum(math.prod(shape) for shape in self._shapes(action_shape)),)}

    def begin_rollout(self, storage: RolloutStorage, temperature: Tensor) -> None:
        """Draw the noise of every search of the rollout."""
        plan, leading = self._plan, (storage.horizon,)
        if self._noise is None or self._noise.readout.shape[:2] != (*leading, storage.num_envs):
            sizes = (plan.settings, plan.simulator.num_noise, storage.device, leading)
            self._noise = SearchNoise.allocate(storage.num_envs, plan.policy, *sizes)
        self._noise.draw_(plan.policy, plan.settings.root_noise_concentration, self._generator)
        self._temperature.copy_(temperature)

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Search, keep what was found, and draw the action from it; no host sync."""
        assert self._noise is not None
        inputs = (storage.obs[t, envs], storage.elapsed[t, envs], self._temperature, *self._noise.part(t, envs))
        finding_NX = self._look_for(envs)(*inputs)
        storage.extras["finding"][t, envs] = finding_NX
        executed = self._split(finding_NX, storage).executed.to(storage.action.dtype)
        storage.action[t, envs] = executed
        return executed

    def experience(self, storage: RolloutStorage, reward_scale: float) -> Experience:
        """What the replay shall keep of a rollout."""
        found = self._split(storage.extras["finding"], storage)
        return Experience(
            action=found.atom.long() if self._plan.policy.action_shape == () else found.atom,
            weight=found.weight,
            advantage=found.advantage,
            log_prior=found.log_prior,
            reward=storage.reward * reward_scale,
            terminated=storage.terminated,
            truncated=storage.truncated,
            valid=storage.valid,
        )

    def statistics(self, storage: RolloutStorage) -> Tensor:
        """The means of `Depth`'s fields at each depth and of the entropy of q, over the valid searches of a rollout."""
        found = self._split(storage.extras["finding"], storage)
        return found.statistics.flatten(0, 1).index_select(0, storage.valid_index).mean(0)

    def _look_for(self, envs: slice) -> Callable[..., Tensor]:
        """The search as it is to be executed; each group of environments has a graph of its own."""
        if not self._uses_graphs:
            return self._look
        group = envs.start or 0
        if group not in self._graphs:
            self._graphs[group] = GraphedCall(self._look)
        return self._graphs[group]

    def _shapes(self, action_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Of the parts of a finding, for one environment."""
        plan = self._plan
        futures = (plan.num_futures,)
        num_statistics = len(Depth._fields) * plan.settings.search_depth + 1
        atoms = (plan.num_atoms, *plan.policy.action_shape)
        return atoms, (plan.num_atoms,), futures, futures, action_shape, (num_statistics,)

    def _split(self, finding: Tensor, storage: RolloutStorage) -> _Finding:
        shapes = self._shapes(tuple(storage.action.shape[2:]))
        parts = torch.split(finding, [math.prod(shape) for shape in shapes], -1)
        leading = finding.shape[:-1]
        return _Finding(*[part.reshape(*leading, *shape) for part, shape in zip(parts, shapes, strict=True)])

    def _look_plain(self, obs: Tensor, elapsed_N: Tensor, temperature: Tensor, *noise: Tensor) -> Tensor:
        plan, given = self._plan, SearchNoise(*noise)
        result = _search(self._network, plan, obs, elapsed_N, temperature, given)
        chosen_N1 = resample(result.weight, given.readout)
        index = chosen_N1.view(-1, 1, *[1] * len(plan.policy.action_shape)).expand(-1, 1, *plan.policy.action_shape)
        executed = plan.policy.to_env(result.action.gather(1, index).squeeze(1))
        spread_N = entropy(plan.policy.masses(result.action, result.weight))
        statistics = torch.stack([*(part for depth in result.depths for part in depth), spread_N], 1)
        parts = (result.action, result.weight, result.advantage, result.log_prior)
        return _Finding(*parts, executed.view(len(obs), -1), statistics).pack()


def name_statistics(values: list[float]) -> dict[str, float]:
    """Give what `Actor.statistics` has returned the names under which it is emitted."""
    size = len(Depth._fields)
    depths = [dict(zip(Depth._fields, values[at : at + size], strict=True)) for at in range(0, len(values) - 1, size)]
    named = {f"ess_depth_{number}": depth["ess_fraction"] for number, depth in enumerate(depths, 1)}
    named["resample_rate"] = sum(depth["resample_rate"] for depth in depths) / len(depths)
    named["alive_fraction"] = depths[-1]["alive_fraction"]
    named["search_entropy"] = values[-1]
    return named


class GreedySearch:
    """Searches in evaluation: for the action that stands for what was found.

    Args:
        network: the online actor and critic.
        plan: what all searches have in common; here the root does not explore.
        execution: of searches; they may be captured, but there are too few of them to be compiled.
        device: of the networks.
    """

    def __init__(self, network: ActorCritic, plan: SearchPlan, execution: Execution, device: torch.device) -> None:
        self.plan = replace(plan, settings=plan.settings.model_copy(update={"root_noise_fraction": 0.0}))
        self.device = device
        self._network = network
        self._uses_graphs = execution.uses_graphs and not plan.simulator.is_on_host
        self._graphs: dict[int, GraphedCall] = {}

    def best(self, obs: Tensor, elapsed_N: Tensor, temperature: Tensor, noise: SearchNoise) -> Tensor:
        """Actions of the environments [N] or [N, A]; the next call may overwrite them."""
        inputs = (obs, elapsed_N, temperature, *noise)
        if not self._uses_graphs:
            return self._best_plain(*inputs)
        if len(obs) not in self._graphs:
            self._graphs[len(obs)] = GraphedCall(self._best_plain)
        return self._graphs[len(obs)](*inputs)

    def _best_plain(self, obs: Tensor, elapsed_N: Tensor, temperature: Tensor, *noise: Tensor) -> Tensor:
        result = _search(self._network, self.plan, obs, elapsed_N, temperature, SearchNoise(*noise))
        return self.plan.policy.best(result.action, result.weight)


class DeterministicPolicy:
    """The policy for one evaluation: greedy search, with noise that is the same in every evaluation.

    Args:
        search: by which it acts.
        temperature: eta, 0-d.
        seed: of the noise.
    """

    def __init__(self, search: GreedySearch, temperature: Tensor, seed: int) -> None:
        self._search, self._temperature = search, temperature.clone()
        self._generator = torch.Generator(search.device).manual_seed(seed)
        self._noise: SearchNoise | None = None

    @torch.inference_mode()
    def __call__(self, obs: NDArray[Any], elapsed_N: NDArray[np.int_]) -> NDArray[Any]:
        """The action that stands for what the search has found.

        Args:
            obs: [N, ...].
            elapsed_N: steps since each episode began.
        """
        plan, device = self._search.plan, self._search.device
        if self._noise is None:
            num_noise = plan.simulator.num_noise
            self._noise = SearchNoise.allocate(len(obs), plan.policy, plan.settings, num_noise, device)
        self._noise.draw_(plan.policy, plan.settings.root_noise_concentration, self._generator)
        seen = torch.from_numpy(obs).to(device)
        elapsed = torch.from_numpy(elapsed_N.astype(np.int32)).to(device)
        action: NDArray[Any] = self._search.best(seen, elapsed, self._temperature, self._noise).cpu().numpy()
        return action


def _search(
    network: ActorCritic, plan: SearchPlan, obs: Tensor, elapsed_N: Tensor, temperature: Tensor, noise: SearchNoise
) -> SearchResult:
    root = plan.simulator.restore(obs, elapsed_N)
    return plan.search(network, plan.policy, plan.simulator, plan.settings, temperature, root, obs, noise)
