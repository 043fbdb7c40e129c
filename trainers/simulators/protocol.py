"""What a perfect model of a task is: pure functions on tensors, of a whole batch at once.

A model can start from any live observation, never resets by itself, draws no random numbers (chance comes in as
noise) and never waits for the device. All that it must remember of a situation lies in one tensor.
Shapes: B batch, S numbers of a state, O observation, Z random numbers of a step.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Model", "Outcome"]


class Outcome(NamedTuple):
    """What a step leads to.

    Attributes:
        state: [B, S].
        reward: float32 [B].
        terminated: bool [B], the episode ends in the task's own terms.
    """

    state: Tensor
    reward: Tensor
    terminated: Tensor


class Model(Protocol):
    """The rules of one task, as envpool plays it."""

    @property
    def num_noise(self) -> int:
        """Z, uniform numbers in [0, 1) that a step takes; 0 where nothing is left to chance."""

    @property
    def is_on_host(self) -> bool:
        """Whether a step leaves the device and torch: such a step can neither be compiled nor captured."""

    def restore(self, obs_BO: Tensor) -> Tensor:
        """Read the state [B, S] from live observations."""

    def observe(self, state_BS: Tensor) -> Tensor:
        """Show a state: float32 [B, O], as the environment does."""

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Take one step.

        Args:
            state_BS: where from; not changed.
            action: int64 [B] or [B, A], or float [B, A], which is clipped where the environment clips it.
            noise_BZ: uniform in [0, 1).
        """
