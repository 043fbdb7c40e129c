"""Where forks wait: a process is forked only while the threads behind the queue sleep.

sqlite, TLS and the resolver have mutexes of their own. A child forked while another thread holds one inherits it held,
with nobody left to release it: its first own use hangs for ever. So a loop of ours holds a lock while it works and
gives it up while it waits for something to do; a fork takes these locks first.
"""

import selectors
import threading
import time
import weakref
from contextlib import suppress
from typing import Any, Final

__all__ = ["Gate", "GatedSelector", "hold_gates", "release_gates", "renew_gates"]

FORK_WAIT_S: Final = 1.0
"""Longest that a fork waits for work to come to a pause; a disk that hangs must not stop the program."""


class Gate:
    """Held by a loop while it works; one thread's, so that its own forks pass."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_working = False
        self._is_held_for_fork = False
        _gates.add(self)

    def pause(self) -> None:
        """The loop has nothing to do: forks may come."""
        if self._is_working:
            self._is_working = False
            self._lock.release()

    def work(self) -> None:
        """The loop goes on: forks wait."""
        self._lock.acquire()
        self._is_working = True

    def hold(self, timeout_s: float) -> None:
        """Keep the loop from working, for a fork."""
        self._is_held_for_fork = self._lock.acquire(timeout=max(0.0, timeout_s))

    def release(self) -> None:
        """Let it work again."""
        if self._is_held_for_fork:
            self._is_held_for_fork = False
            self._lock.release()


class GatedSelector(selectors.DefaultSelector):
    """The selector of an event loop, whose waiting is the only time at which a fork may come."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = Gate()

    def select(self, timeout: float | None = None) -> Any:
        """Wait for events, as the base class does."""
        self._gate.pause()
        try:
            return super().select(timeout)
        finally:
            self._gate.work()

    def close(self) -> None:
        """Close; the loop has ended, or never worked."""
        self._gate.pause()
        super().close()


def hold_gates() -> None:
    """Wait, within a bound, until no loop works, and keep them so; before a fork."""
    deadline = time.monotonic() + FORK_WAIT_S
    for gate in list(_gates):
        gate.hold(deadline - time.monotonic())


def release_gates() -> None:
    """Let the loops work again; in the parent, on the thread that held them."""
    for gate in list(_gates):
        with suppress(RuntimeError):  # made meanwhile, by another thread
            gate.release()


def renew_gates() -> None:
    """Forget the parent's loops, which do not run here; in the child."""
    _gates.clear()


_gates: "weakref.WeakSet[Gate]" = weakref.WeakSet()
