"""How SPO acts: a search at every step, in training and in evaluation.

Shapes: T horizon, H depth, N environments, K atoms, M futures, A action dimensions.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.networks import ActorCritic
from trainers.rollout import RolloutStorage
from trainers.spo.noise import SearchNoise
from trainers.spo.replay import Experience
from trainers.spo.search import Depth
from trainers.spo.setup import SearchPlan
from trainers.spo.weights import entropy, resample

__all__ = ["Actor", "DeterministicPolicy", "name_statistics"]

EXTRAS: Final = ("atom", "weight", "advantage", "log_prior")
"""What a rollout keeps of each search."""


class _Look(NamedTuple):
    """One search of many environments, and what comes of it."""

    atom: Tensor
    weight: Tensor
    advantage: Tensor
    log_prior: Tensor
    executed: Tensor
    statistics: Tensor


class Actor:
    """Searches in rollouts.

    Args:
        network: the online actor and critic.
        plan: what all searches have in common.
        compile_: makes a function of tensors faster.
        generator: of the noise.
    """

    def __init__(
        self,
        network: ActorCritic,
        plan: SearchPlan,
        compile_: Callable[[Callable[..., _Look]], Callable[..., _Look]],
        generator: torch.Generator,
    ) -> None:
        self._network, self._plan, self._generator = network, plan, generator
        self._look = compile_(self._look_plainly)
        self._noise: SearchNoise | None = None
        self._temperature = torch.ones((), device=generator.device)
        self._statistics: list[Tensor] = []

    def extras(self) -> dict[str, tuple[int, ...]]:
        """What the storage must have room for."""
        num_atoms, num_futures = self._plan.num_atoms, self._plan.num_futures
        shapes = ((num_atoms, *self._plan.policy.action_shape), (num_atoms,), (num_futures,), (num_futures,))
        return dict(zip(EXTRAS, shapes, strict=True))

    def begin_rollout(self, storage: RolloutStorage, temperature: Tensor) -> None:
        """Draw the noise of every search of the rollout."""
        plan = self._plan
        if self._noise is None or self._noise.readout.shape[:2] != (storage.horizon, storage.num_envs):
            self._noise = SearchNoise.allocate(
                storage.num_envs,
                plan.policy,
                plan.settings,
                plan.simulator.num_noise,
                storage.device,
                leading=(storage.horizon,),
            )
        self._noise.draw_(plan.policy, plan.settings.root_noise_concentration, self._generator)
        self._temperature.copy_(temperature)
        self._statistics = []

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Search, keep what was found, and draw the action from it; no host sync."""
        assert self._noise is not None
        noise = self._noise.part(t, envs)
        look = self._look(storage.obs[t, envs], storage.elapsed[t, envs], self._temperature, *noise)
        for name, part in zip(EXTRAS, look, strict=False):
            storage.extras[name][t, envs] = part
        storage.action[t, envs] = look.executed
        self._statistics.append(look.statistics)
        return look.executed

    def experience(self, storage: RolloutStorage, reward_scale: float) -> Experience:
        """What the replay shall keep of a rollout."""
        atom, weight, advantage, log_prior = (storage.extras[name] for name in EXTRAS)
        is_choice = self._plan.policy.action_shape == ()
        return Experience(
            action=atom.long() if is_choice else atom,
            weight=weight,
            advantage=advantage,
            log_prior=log_prior,
            reward=storage.reward * reward_scale,
            terminated=storage.terminated,
            truncated=storage.truncated,
            valid=storage.valid,
        )

    def statistics(self) -> Tensor:
        """Of the searches of the rollout, on the device: the fields of `Depth` for each depth, the entropy of q."""
        return torch.stack(self._statistics).mean(0)

    def _look_plainly(self, obs: Tensor, elapsed_N: Tensor, temperature: Tensor, *noise: Tensor) -> _Look:
        plan, given = self._plan, SearchNoise(*noise)
        root = plan.simulator.restore(obs, elapsed_N)
        result = plan.search(self._network, plan.policy, plan.simulator, plan.settings, temperature, root, obs, given)
        chosen_N1 = resample(result.weight, given.readout)
        index = chosen_N1.view(-1, 1, *[1] * len(plan.policy.action_shape)).expand(-1, 1, *plan.policy.action_shape)
        action = result.action.gather(1, index).squeeze(1)
        depths = [statistic for depth in result.depths for statistic in depth]
        statistics = torch.stack([*depths, entropy(plan.policy.masses(result.action, result.weight)).mean()])
        executed = plan.policy.to_env(action)
        return _Look(result.action, result.weight, result.advantage, result.log_prior, executed, statistics)


def name_statistics(values: list[float]) -> dict[str, float]:
    """Give what `statistics` has returned the names under which it is emitted."""
    *flat, search_entropy = values
    depths = [
        Depth._make(flat[start : start + len(Depth._fields)]) for start in range(0, len(flat), len(Depth._fields))
    ]
    named = {f"ess_depth_{number}": float(depth.ess_fraction) for number, depth in enumerate(depths, 1)}
    named["resample_rate"] = sum(float(depth.resample_rate) for depth in depths) / len(depths)
    named["alive_fraction"] = float(depths[-1].alive_fraction)
    named["search_entropy"] = search_entropy
    return named


class DeterministicPolicy:
    """Searches in evaluation: greedy, with noise of its own that begins anew with each evaluation.

    Args:
        network: the online actor and critic.
        plan: what all searches have in common.
        temperature: eta, 0-d.
        seed: of the noise.
        device: of the networks.
    """

    def __init__(
        self, network: ActorCritic, plan: SearchPlan, temperature: Tensor, seed: int, device: torch.device
    ) -> None:
        self._network, self._temperature, self._device = network, temperature.clone(), device
        self._plan = replace(plan, settings=replace(plan.settings, root_noise_fraction=0.0))
        self._generator = torch.Generator(device).manual_seed(seed)
        self._noise: SearchNoise | None = None

    @torch.inference_mode()
    def __call__(self, obs: NDArray[Any], elapsed_N: NDArray[np.int_]) -> NDArray[Any]:
        """The action that stands for what the search has found.

        Args:
            obs: [N, ...].
            elapsed_N: steps since each episode began.
        """
        plan = self._plan
        if self._noise is None:
            num_noise = plan.simulator.num_noise
            self._noise = SearchNoise.allocate(len(obs), plan.policy, plan.settings, num_noise, self._device)
        self._noise.draw_(plan.policy, plan.settings.root_noise_concentration, self._generator)
        seen = torch.from_numpy(obs).to(self._device)
        elapsed = torch.from_numpy(elapsed_N.astype(np.int32)).to(self._device)
        root = plan.simulator.restore(seen, elapsed)
        result = plan.search(
            self._network, plan.policy, plan.simulator, plan.settings, self._temperature, root, seen, self._noise
        )
        action: NDArray[Any] = plan.policy.best(result.action, result.weight).cpu().numpy()
        return action
