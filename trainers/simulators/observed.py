"""Models of tasks that show everything: the observation is the state.

Shapes: B batch, O observation.
"""

from torch import Tensor

__all__ = ["ObservedModel"]


class ObservedModel:
    """What such models share; by default nothing is left to chance."""

    num_noise: int = 0
    is_on_host: bool = False

    def restore(self, obs_BO: Tensor) -> Tensor:
        """The observation is the state."""
        return obs_BO

    def observe(self, state_BS: Tensor) -> Tensor:
        """The state is the observation."""
        return state_BS
