"""Brings a signal to a main thread that does not notice it.

Python runs a signal's handler between two instructions of the main thread. A signal that comes after the last of them
and before a wait begins, for a lock say, does not interrupt that wait: the handler runs when it ends, which may be
never. A pool that ends its workers hits them there, as they go to wait for their next task. The action that a handler
takes the place of has no such hole, so it is ours to close.

The signal's number comes through Python's wake-up descriptor all the same. A second signal, which means nothing, then
interrupts the wait, and the main thread looks for handlers to run.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Collection
from types import FrameType
from typing import Final

__all__ = ["Nudge"]

NUDGE: Final = signal.SIGURG
"""Ignored by default, and meaningless to all who read no out-of-band data."""

FIRST_S: Final = 0.05
"""Longer than a main thread that runs Python takes to look, as a rule."""

LAST_S: Final = 1.0
"""The pause doubles up to this: the main thread may be inside of foreign code, whose waits are better left alone."""

NOBODY: Final = -1
"""The wake-up descriptor where nobody listens."""


class Nudge:
    """Listens for signals from `install` to `remove`, both of which do nothing outside of the main thread.

    Args:
        signals: the numbers that matter.
    """

    def __init__(self, signals: Collection[int]) -> None:
        self._signals = frozenset(signals)
        self._pipe: tuple[int, int] | None = None
        self._has_looked = False

    def install(self) -> None:
        """Listen, unless somebody else in this process does."""
        if not (self._signals and _is_main_thread() and _is_free()):
            return
        try:
            reader, writer = self._pipe = os.pipe()
        except OSError:  # out of descriptors: then without
            return
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(NUDGE, self._look)

    def remove(self) -> None:
        """Give everything back that is still ours; in a forked child, this is its parent's."""
        if self._pipe is None or not _is_main_thread():
            return  # the descriptors stay open, since Python writes to one of them
        (reader, writer), self._pipe = self._pipe, None
        if (current := signal.set_wakeup_fd(NOBODY)) != writer:
            signal.set_wakeup_fd(current)
        if signal.getsignal(NUDGE) == self._look:
            signal.signal(NUDGE, signal.SIG_DFL)
        os.close(reader)
        os.close(writer)

    async def run(self) -> None:
        """Nudge the main thread at each signal, on another thread's loop; ends by being cancelled."""
        if self._pipe is None:
            return
        reader, loop, has_come = self._pipe[0], asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            if self._signals.intersection(os.read(reader, 4096)):
                has_come.set()

        loop.add_reader(reader, read)
        try:
            while await has_come.wait():
                has_come.clear()
                await self._interrupt()
        finally:
            loop.remove_reader(reader)

    async def _interrupt(self) -> None:
        """Interrupt what the main thread waits for, until it has looked."""
        self._has_looked, pause_s = False, FIRST_S
        await asyncio.sleep(pause_s)
        while not self._has_looked:
            with contextlib.suppress(OSError):  # it has ended
                signal.pthread_kill(threading.main_thread().ident or 0, NUDGE)
            pause_s = min(2 * pause_s, LAST_S)
            await asyncio.sleep(pause_s)

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        self._has_looked = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_free() -> bool:
    """Whether nobody else in this process uses what the nudge does."""
    current = signal.set_wakeup_fd(NOBODY)
    signal.set_wakeup_fd(current)
    return current == NOBODY and signal.getsignal(NUDGE) is signal.SIG_DFL
