"""When to try again, and for how long to wait for an answer."""

import random
from typing import Final

from rltelemetry.clock import Clock
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict

__all__ = ["Breaker", "Patience"]

FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 10.0
"""Whoever restarts a tunnel looks at the page: a probe costs nothing, waiting for it does."""

MIN_BACKOFF_S: Final = 0.05

HELD_S: Final = 15.0
"""Pause before data that waits for a person is tried again."""

HELD_FLOOR_S: Final = 5.0
"""The same when somebody asks for a flush in between."""

TIMEOUT_GROWTH: Final = 10 / 3
MAX_TIMEOUT_S: Final = 30.0
MIN_TIMEOUT_S: Final = 0.05


class Breaker:
    """Says when something may be tried, after failures in a row: full jitter, a cap, and the server's wish as a floor.

    Closed up to `attempts` failures, then open; each try while it is open is a probe, and one success closes it.

    Args:
        attempts: failures in a row before the server counts as down.
        clock: the time source.
        jitter: spreads retries, so that a hundred runs do not come back at once.
        max_backoff_s: the longest pause that is not the server's wish.

    Attributes:
        failures: how many there were in a row.
        is_held: whether the last of them waits for a person.
    """

    def __init__(
        self, attempts: int, clock: Clock, jitter: random.Random, max_backoff_s: float = MAX_BACKOFF_S
    ) -> None:
        self.failures = 0
        self.is_held = False
        self._attempts = attempts
        self._max_backoff_s = max_backoff_s
        self._clock = clock
        self._jitter = jitter
        self._pause_until = self._floor_until = clock.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether this has failed so often that the next try is a probe."""
        return self.failures >= self._attempts

    @property
    def next_try_at(self) -> float:
        """When it may be tried, in monotonic seconds; may be past."""
        return max(self._pause_until, self._floor_until)

    def is_due(self) -> bool:
        """Whether it may be tried now."""
        return self._clock.monotonic() >= self.next_try_at

    def fail(self, outcome: Outcome) -> None:
        """Note a failure."""
        self.failures += 1
        now = self._clock.monotonic()
        self.is_held = outcome.verdict is Verdict.HELD
        self._pause_until = now + (HELD_S if self.is_held else self._backoff_s())
        self._floor_until = now + max(outcome.retry_after_s, HELD_FLOOR_S if self.is_held else 0.0)

    def succeed(self) -> None:
        """Note a success."""
        self.failures = 0
        self.is_held = False
        self.forgive()
        self._floor_until = self._clock.monotonic()

    def forgive(self) -> None:
        """Cut the pause short, but not what the server has asked for."""
        self._pause_until = self._clock.monotonic()

    def _backoff_s(self) -> float:
        ceiling_s = min(self._max_backoff_s, FIRST_BACKOFF_S * 2.0 ** min(self.failures - 1, 10))
        return max(MIN_BACKOFF_S, self._jitter.uniform(0.0, ceiling_s))


class Patience:
    """How long a request may take: longer after each time-out, since a repeat is slower than a first try.

    Args:
        first_s: the time-out of a first try.
        clock: the time source.

    Attributes:
        deadline: when nobody waits any more, in monotonic seconds.
    """

    def __init__(self, first_s: float, clock: Clock) -> None:
        self.deadline = float("inf")
        self._first_s = self._current_s = first_s
        self._clock = clock

    def left_s(self) -> float:
        """The time-out of a request that starts now."""
        return max(MIN_TIMEOUT_S, min(self._current_s, self.deadline - self._clock.monotonic()))

    def grow(self) -> None:
        """Wait longer from here on."""
        self._current_s = min(max(MAX_TIMEOUT_S, self._first_s), self._current_s * TIMEOUT_GROWTH)

    def reset(self) -> None:
        """Wait as long as for a first try."""
        self._current_s = self._first_s
