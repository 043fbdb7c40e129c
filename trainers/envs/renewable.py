"""Environments that are replaced, now and then, by new ones that start anew: at barriers, and after a divergence."""

from collections.abc import Callable

from trainers.envs.vector import VectorEnv

__all__ = ["RenewableEnv"]


class RenewableEnv:
    """Owns the environments of one use, one set of them at a time.

    Args:
        make: makes those that follow on an update; on 0, the first ones of a run.
        update: the one that the first ones here follow on.

    Attributes:
        current: those that are open.
    """

    def __init__(self, make: Callable[[int], VectorEnv], update: int = 0) -> None:
        self._make = make
        self.current = make(update)

    def renew(self, update: int) -> None:
        """Close them, and go on with those that follow on `update`."""
        self.current.close()
        self.current = self._make(update)

    def close(self) -> None:
        """Release them."""
        self.current.close()
