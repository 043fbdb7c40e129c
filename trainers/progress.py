"""One line that says how far a run has come, how fast it is and when it will be over."""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["ProgressLine", "duration_text"]

PERIOD_S: Final = 0.2
"""More often, nobody could read it, and a fast loop would pay for it."""

BAR: Final = 20


class ProgressLine:
    """Shows the line, at most every PERIOD_S.

    Args:
        show: puts a text in place of the last one; an empty one takes it away.
        num_updates: of the whole run.
        first_update: updates done before this process.
        timesteps: environment steps done before it.
        monotonic: the time source.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        num_updates: int,
        first_update: int,
        timesteps: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show = show
        self._num_updates = num_updates
        self._first_update, self._first_timesteps = first_update, timesteps
        self._monotonic = monotonic
        self._started_at = monotonic()
        self._shown_at = float("-inf")

    def advance(self, update: int, timesteps: int, mean_return: float | None) -> None:
        """Say where the run is after an update."""
        now = self._monotonic()
        if now - self._shown_at < PERIOD_S:
            return
        self._shown_at = now
        elapsed_s = max(now - self._started_at, 1e-9)
        rate = (timesteps - self._first_timesteps) / elapsed_s
        left_s = (self._num_updates - update) * elapsed_s / max(update - self._first_update, 1)
        done = update / self._num_updates
        bar = "#" * int(BAR * done) + "." * (BAR - int(BAR * done))
        score = "-" if mean_return is None else f"{mean_return:.5g}"
        self._show(
            f"[{bar}] {done:4.0%}  update {update}/{self._num_updates}  {rate:,.0f} steps/s  "
            f"left {duration_text(left_s)}  return {score}"
        )

    def close(self) -> None:
        """Take the line away."""
        self._show("")


def duration_text(seconds: float) -> str:
    """Return a duration as 0:05, 12:34 or 3:25:45."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
