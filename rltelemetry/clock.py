"""The clock that whatever waits for a server is given, so that tests can hold it in their hands."""

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Wall-clock time for stamps, monotonic time for durations, and waiting."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    async def sleep(self, delay_s: float) -> None:
        """Wait on the worker's loop."""


class SystemClock:
    """The machine's clocks."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(delay_s)
