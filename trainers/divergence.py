"""What becomes of a run when a number is not finite: it ends, leaves the update out, or goes back.

A learner never takes a step on a gradient that is not finite, so that its networks are sound whenever it raises
`DivergenceError`. Environments whose numbers are not finite start new episodes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from trainers.errors import DivergenceError

__all__ = ["MAX_IN_A_ROW", "DivergenceGuard", "check_finite"]

MAX_IN_A_ROW: Final = 10
"""Updates that may fail one after the other: beyond it, nothing mends itself any more."""
UNDEFINED: Final = frozenset({"explained_variance"})
"""Metrics that may be NaN in a sound update."""


def check_finite(update: int, metrics: Mapping[str, float]) -> None:
    """Judge an update by its numbers.

    Raises:
        DivergenceError: one of them is not finite.
    """
    wrong = [f"{name} {value}" for name, value in metrics.items() if not _is_sound(name, value)]
    if wrong:
        raise DivergenceError(
            f"update {update}: got {', '.join(wrong)}; expected finite numbers. "
            "Lower the learning rates, optimization.max_grad_norm or environment.reward_scale."
        )


def _is_sound(name: str, value: float) -> bool:
    return math.isfinite(value) or (name in UNDEFINED and math.isnan(value))


class DivergenceGuard:
    """Stands around each update.

    Args:
        policy: stop, skip or rollback.
        go_back: puts the networks of the last checkpoint back; returns whether there was one.
        complain: told of each update that is left out.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip", "rollback"],
        go_back: Callable[[], bool],
        complain: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._go_back = go_back
        self._complain = complain
        self._in_a_row = 0

    @contextmanager
    def around_update(self, start_anew: Callable[[], None]) -> Iterator[None]:
        """Leave the rest of the block out when it diverges; `start_anew` begins new episodes then.

        Raises:
            DivergenceError: the policy is to stop, or it has happened too often.
        """
        try:
            yield
        except DivergenceError as error:
            self._in_a_row += 1
            if self._policy == "stop":
                raise
            if self._in_a_row >= MAX_IN_A_ROW:
                raise DivergenceError(f"{error} That was the case {MAX_IN_A_ROW} times in a row.") from None
            outcome = "The update is left out."
            if self._policy == "rollback":
                is_back = self._go_back()
                outcome = "Training goes on from the last checkpoint." if is_back else f"{outcome} (No checkpoint yet.)"
            start_anew()
            self._complain(f"{error} {outcome}")
        else:
            self._in_a_row = 0
