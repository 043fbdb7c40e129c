"""Brings a signal to a main thread that does not notice it.

Python runs a signal's handler between two instructions of the main thread. A signal that comes after the last of them
and before a wait begins, for a lock say, does not interrupt that wait: the handler runs when it ends, which may be
never. A pool that ends its workers hits them there, as they go to wait for their next task. The action that a handler
takes the place of has no such hole, so it is ours to close.

The signal's number comes through Python's wake-up descriptor all the same. A second signal, which means nothing, then
interrupts the wait, and the main thread looks for handlers to run. An event loop that wants the descriptor for itself
(asyncio's own, uvloop, trio) has it: it is taken only where nobody has it, and a later owner is left alone.
"""

import asyncio
import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Final

from rltelemetry.endings import ENDING_SIGNALS

__all__ = ["NUDGE", "Nudge"]

INTERRUPTION: Final = signal.SIGURG
"""Ignored by default, and meaningless to all who read no out-of-band data."""

FIRST_S: Final = 0.05
"""Longer than a main thread that runs Python takes to look, as a rule."""

LAST_S: Final = 1.0
"""The pause doubles up to this: the main thread may be inside of foreign code, whose waits are better left alone."""

NOBODY: Final = -1
"""The wake-up descriptor where nobody listens."""


class Nudge:
    """Listens for the signals that end a program, from `install` to `remove`; both do nothing outside the main thread.

    The pipe is made once and never closed: whoever borrows the wake-up descriptor (an event loop) may put it back after
    `remove`, and what Python writes to a closed descriptor may reach somebody else's file.
    """

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        self._identity: tuple[int, int] | None = None
        self._has_looked = False

    def install(self) -> None:
        """Listen, unless somebody else in this process does."""
        if not (_is_main_thread() and self._is_free()):
            return
        with contextlib.suppress(OSError):  # out of descriptors: then without
            _, writer = self._make_pipe()
            signal.signal(INTERRUPTION, self._look)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def remove(self) -> None:
        """Give back what is still ours."""
        if self._pipe is None or not _is_main_thread():
            return
        if _descriptor() == self._pipe[1]:
            signal.set_wakeup_fd(NOBODY)
        if signal.getsignal(INTERRUPTION) == self._look:
            signal.signal(INTERRUPTION, signal.SIG_DFL)

    def become_child(self) -> None:
        """Give back what is the parent's, in a forked child: what is written to its pipe, the parent reads."""
        self.remove()
        self._pipe = None

    async def run(self) -> None:
        """Nudge the main thread at each signal, on another thread's loop; ends by being cancelled."""
        if self._pipe is None:
            return
        reader, loop, has_come = self._pipe[0], asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):  # a loop that was given up may have been faster
                if ENDING_SIGNALS.intersection(os.read(reader, 4096)):
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
        while not self._has_looked and signal.getsignal(INTERRUPTION) == self._look:
            with contextlib.suppress(OSError):  # it has ended
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPTION)
            pause_s = min(2 * pause_s, LAST_S)
            await asyncio.sleep(pause_s)

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        self._has_looked = True

    def _is_free(self) -> bool:
        ours = self._pipe[1] if self._pipe else NOBODY
        is_meaningless = signal.getsignal(INTERRUPTION) in (signal.SIG_DFL, self._look)
        return is_meaningless and _descriptor() in {NOBODY, ours}

    def _make_pipe(self) -> tuple[int, int]:
        """Return the pipe; a new one if a program that became a daemon has closed it."""
        if self._pipe is None or _identity(self._pipe[1]) != self._identity:
            self._pipe = os.pipe()
            self._identity = _identity(self._pipe[1])
            for descriptor in self._pipe:
                os.set_blocking(descriptor, False)
        return self._pipe


NUDGE: Final = Nudge()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _descriptor() -> int:
    """The wake-up descriptor; it can only be read by changing it, and a closed one cannot be put back."""
    current = signal.set_wakeup_fd(NOBODY)
    with contextlib.suppress(OSError, ValueError):
        signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    return current


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
