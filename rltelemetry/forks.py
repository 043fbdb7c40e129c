"""Forked children: a child has no worker, and its copy of the queue belongs to the parent.

In the child a pipeline of its own is opened when the first event comes, with a spool of its own and into the same run.
Children of multiprocessing leave by os._exit, without atexit: they are given a finaliser. What the parent had open is
kept untouched in the child, since closing a copied sqlite connection or socket would reach the parent's.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from typing import Final, Protocol

from rltelemetry.fork_gate import GATE
from rltelemetry.handoff import CELL, Handoff
from rltelemetry.nudge import NUDGE

__all__ = ["Forkable", "watch_forks"]

FINALIZE_PRIORITY: Final = 5
"""multiprocessing runs finalisers of higher priority first; its own queues, which may log, have 10."""


class Forkable(Protocol):
    """What the hooks ask of the open pipeline."""

    @property
    def signals(self) -> Collection[int]:
        """The signals whose handlers are its own."""

    def become_child(self) -> None:
        """Forget the parent's parts; called in the child, where only the forking thread lives on."""

    def open_in_child(self) -> Handoff | None:
        """Open the child's pipeline, for its first event; None once it was closed."""

    def close_child(self) -> None:
        """Close the child's pipeline, if it was opened."""


class _Hooks:
    """The process-wide hooks; registered once, since Python cannot unregister them."""

    def __init__(self, current: Callable[[], Forkable | None]) -> None:
        self.current = current
        self._masks = threading.local()

    def before(self) -> None:
        GATE.before_fork()
        pipeline = self.current()
        # CPython forgets, in the child, a signal that came before this: it waits until the child can die of it
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, pipeline.signals if pipeline else ())
        util = sys.modules.get("multiprocessing.util")
        if util is not None and pipeline is not None:
            util.register_after_fork(self, _Hooks.finalize_in_child)

    def after_in_parent(self) -> None:
        GATE.after_fork_in_parent()
        self._unmask()

    def after_in_child(self) -> None:
        GATE.after_fork_in_child()
        NUDGE.become_child()
        pipeline = self.current()
        if pipeline is not None:
            pipeline.become_child()
            CELL.active = None
            CELL.opener = pipeline.open_in_child
        self._unmask()

    def _unmask(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def finalize_in_child(self) -> None:
        """Run by multiprocessing in its child, after it has cleared the finalisers that it inherited."""
        pipeline = self.current()
        if pipeline is not None:
            sys.modules["multiprocessing.util"].Finalize(None, pipeline.close_child, exitpriority=FINALIZE_PRIORITY)


_hooks: _Hooks | None = None


def watch_forks(current: Callable[[], Forkable | None]) -> None:
    """Look after children that this process forks; `current` gives the open pipeline."""
    global _hooks
    if _hooks is None and hasattr(os, "register_at_fork"):
        _hooks = _Hooks(current)
        os.register_at_fork(
            before=_hooks.before, after_in_parent=_hooks.after_in_parent, after_in_child=_hooks.after_in_child
        )
