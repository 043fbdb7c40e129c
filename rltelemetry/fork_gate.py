"""Keeps a fork away from the moments in which the worker may hold somebody else's lock.

A fork copies locks as they are. One that the worker holds just then (the import system's, OpenSSL's, sqlite's) stays
held in the child for ever, and the child's own worker would wait for it. So the worker's loop works behind a gate that
is open only while it waits, and a fork waits for the open gate, for a few milliseconds as a rule.
"""

import selectors
import threading
import time
from contextlib import suppress
from typing import Any, Final

__all__ = ["GATE", "ForkGate", "GatedSelector"]

MAX_WAIT_S: Final = 1.0
"""A worker that is stuck must not keep the program from forking."""

COURTESY_S: Final = 0.001
"""A lock that is released and taken again at once is never free for a thread that sleeps on it."""


class ForkGate:
    """A lock that the worker holds while it works, and a fork while it forks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_wanted = False

    def enter(self) -> None:
        """Begin to work."""
        if self._is_wanted:
            time.sleep(COURTESY_S)
        self._lock.acquire()

    def leave(self) -> None:
        """Begin to wait."""
        self._lock.release()

    def before_fork(self) -> None:
        """Wait until nobody works; on the thread that forks."""
        self._is_wanted = True
        self._lock.acquire(timeout=MAX_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Let the worker go on."""
        self._is_wanted = False
        with suppress(RuntimeError):  # the wait was given up
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start anew: the parent's worker is not here."""
        self._lock = threading.RLock()
        self._is_wanted = False


GATE: Final = ForkGate()


class GatedSelector(selectors.DefaultSelector):
    """What an event loop waits in: with the gate open, and closed again from there on, until `leave`."""

    _is_inside = False

    def select(self, timeout: float | None = None) -> list[Any]:
        """Wait, with the gate open."""
        self.leave()
        try:
            return super().select(timeout)
        finally:
            GATE.enter()
            self._is_inside = True

    def leave(self) -> None:
        """Open the gate: the loop waits, or has come to rest."""
        if self._is_inside:
            self._is_inside = False
            GATE.leave()
