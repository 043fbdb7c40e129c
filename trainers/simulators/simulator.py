"""A model with its time limit, and the operations on states that a search needs.

Shapes: B batch, S numbers of a state, O observation, Z random numbers of a step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.simulators.protocol import Model

__all__ = ["Simulator", "State", "Transition"]


class State(NamedTuple):
    """Situations, one per row.

    Attributes:
        model: [B, S], what the model remembers.
        elapsed: int32 [B], steps since the episode began.
    """

    model: Tensor
    elapsed: Tensor

    def select(self, index_M: Tensor) -> "State":
        """The situations of these rows."""
        return State(self.model.index_select(0, index_M), self.elapsed.index_select(0, index_M))

    def repeat(self, count: int) -> "State":
        """Each situation `count` times, in a row."""
        return State(self.model.repeat_interleave(count, 0), self.elapsed.repeat_interleave(count, 0))

    def where(self, condition_B: Tensor, other: "State") -> "State":
        """These situations where the condition holds, the others elsewhere."""
        model = torch.where(condition_B.unsqueeze(1), self.model, other.model)
        return State(model, torch.where(condition_B, self.elapsed, other.elapsed))


class Transition(NamedTuple):
    """One step of every row; `terminated` wins where both ends fall together.

    Attributes:
        state: what follows.
        reward: float32 [B].
        terminated: bool [B], the episode ends in the task's own terms.
        truncated: bool [B], a time limit cuts it.
    """

    state: State
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class Simulator:
    """Plays a model against the clock.

    Args:
        model: the task's rules.
        max_episode_steps: where episodes are cut; None for never.
        reward_scale: what rewards are multiplied by.
    """

    def __init__(self, model: Model, max_episode_steps: int | None, reward_scale: float = 1.0) -> None:
        self._model = model
        self._limit = max_episode_steps
        self._reward_scale = reward_scale

    @property
    def num_noise(self) -> int:
        """Z, uniform numbers in [0, 1) that a step takes; 0 where nothing is left to chance."""
        return self._model.num_noise

    @property
    def is_on_host(self) -> bool:
        """Whether a step leaves the device and torch."""
        return self._model.is_on_host

    def restore(self, obs_BO: Tensor, elapsed_B: Tensor) -> State:
        """Read the situations from live observations and the number of steps that led there."""
        return State(self._model.restore(obs_BO), elapsed_B)

    def observe(self, state: State) -> Tensor:
        """Show the situations: float32 [B, O], as the environment does."""
        return self._model.observe(state.model)

    def step(self, state: State, action: Tensor, noise_BZ: Tensor) -> Transition:
        """Take one step: action int64 [B] or [B, A], or float [B, A]."""
        outcome = self._model.step(state.model, action, noise_BZ)
        elapsed_B = state.elapsed + 1
        if self._limit is None:
            truncated_B = torch.zeros_like(outcome.terminated)
        else:
            truncated_B = (elapsed_B >= self._limit) & ~outcome.terminated
        reward_B = outcome.reward if self._reward_scale == 1.0 else outcome.reward * self._reward_scale
        return Transition(State(outcome.state, elapsed_B), reward_B, outcome.terminated, truncated_B)
