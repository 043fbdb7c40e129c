"""What the pipeline itself has to say: one line per cause per period, on the console only.

A notice never enters the queue or a sink: a pipeline that reports its own failures through itself feeds on them.
"""

import threading
from collections.abc import Callable

from rltelemetry.clock import Clock

__all__ = ["NOTICE_PERIOD_S", "Notices"]

MAX_CAUSES = 1000
"""Causes that are told apart; a program with more has made its point."""

NOTICE_PERIOD_S = 30.0
"""A failing server is asked several times a second; nobody wants to read that."""


class Notices:
    """Rate-limited messages about the pipeline's own state; callable from any thread.

    Args:
        write: puts a line before the user's eyes: `write(level, message)`, levels `info` and `warning`.
        clock: the time source.
    """

    def __init__(self, write: Callable[[str, str], None], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may speak while the main thread does
        self._last_said: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def info(self, message: str) -> None:
        """Say something that happens once by nature."""
        self._write("info", message)

    def once(self, cause: str, message: str) -> None:
        """Warn the first time that `cause` comes up."""
        with self._lock:
            known = cause in self._last_said or len(self._last_said) >= MAX_CAUSES
            if not known:
                self._last_said[cause] = self._clock.monotonic()
        if not known:
            self._write("warning", message)

    def warn(self, cause: str, message: str) -> None:
        """Warn at most once a period per `cause`, saying how often it came up in between."""
        now = self._clock.monotonic()
        with self._lock:
            last = self._last_said.get(cause)
            if last is not None and now - last < NOTICE_PERIOD_S:
                self._suppressed[cause] = self._suppressed.get(cause, 0) + 1
                return
            self._last_said[cause] = now
            repeats = self._suppressed.pop(cause, 0)
        self._write("warning", f"{message} ({repeats} more since)" if repeats else message)
