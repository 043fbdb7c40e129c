"""A clock that stands still until the test moves it."""

import asyncio
import heapq
import itertools
import threading
import time
from typing import Final, NamedTuple

__all__ = ["FakeClock"]

START_NS: Final = 1_700_000_000_000_000_000
"""2023-11-14: a date that no test mistakes for now or for 1970."""


class _Sleeper(NamedTuple):
    deadline: float
    order: int
    loop: asyncio.AbstractEventLoop
    woken: "asyncio.Future[None]"


class FakeClock:
    """A `Clock` whose time passes only in `advance`; every method may be called from any thread.

    Args:
        time_ns: where the wall clock starts, nanoseconds since the epoch.
    """

    def __init__(self, time_ns: int = START_NS) -> None:
        self._wall_ns = time_ns
        self._monotonic = 1000.0
        self._sleepers: list[_Sleeper] = []
        self._order = itertools.count()
        self._changed = threading.Condition()

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._wall_ns

    def monotonic(self) -> float:
        """Seconds that only `advance` moves."""
        return self._monotonic

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been advanced by `delay_s`."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        with self._changed:
            sleeper = _Sleeper(self._monotonic + delay_s, next(self._order), loop, loop.create_future())
            heapq.heappush(self._sleepers, sleeper)
            self._changed.notify_all()
        try:
            await sleeper.woken
        finally:
            self._forget(sleeper)

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep."""
        with self._changed:
            return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass, waking each sleeper that is due, the earliest first."""
        if seconds < 0:
            raise ValueError(f"advance: got {seconds}; expected a duration. Use jump() to move the wall clock back.")
        with self._changed:
            self._wall_ns += round(seconds * 1e9)
            self._monotonic += seconds
            while self._sleepers and self._sleepers[0].deadline <= self._monotonic + 1e-9:
                _wake(heapq.heappop(self._sleepers))
            self._changed.notify_all()

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as a time service or a suspended laptop does."""
        with self._changed:
            self._wall_ns += round(seconds * 1e9)

    def wait_for_sleepers(self, count: int = 1, timeout_s: float = 5.0) -> bool:
        """Block this thread until at least `count` tasks of other threads are asleep; False on time-out."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while len(self._sleepers) < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    return False
        return True

    def _forget(self, sleeper: _Sleeper) -> None:
        """Drop a sleeper whose task was cancelled; one that was woken is gone already."""
        with self._changed:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)


def _wake(sleeper: _Sleeper) -> None:
    def settle() -> None:
        if not sleeper.woken.done():
            sleeper.woken.set_result(None)

    if not sleeper.loop.is_closed():
        sleeper.loop.call_soon_threadsafe(settle)
