"""Signals -> an orderly exit: the run is saved, the telemetry says KILLED and flushes, the code is 128 + number.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (a dropped session) and SIGUSR1 (a batch system's warning) ask for it. Only default
actions are replaced: `nohup` ignores SIGHUP, and it stays ignored.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["GRACE_S", "REPEAT_S", "Interruption", "handles_signals"]

REPEAT_S: Final = 0.5
"""A launcher passes on the signal that its terminal has sent, too: until then, a second one is the same one."""

GRACE_S: Final = 10.0
"""A dropped session sends SIGHUP and then SIGTERM: until then, one of another kind does not cut the end short."""

PATIENCE_S: Final = 1.0
"""How long a run may take to reach the end of its update. With the telemetry's 3 s, it leaves within 5 s."""

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGHUP
DEFAULTS: Final = (signal.SIG_DFL, signal.default_int_handler)


class Interruption:
    """What signals have asked for.

    Args:
        patience_s: how long a block in `patiently` has to notice.
        monotonic: the time source.

    Attributes:
        exit_code: what the program is to end with; None while nobody has asked.
    """

    def __init__(self, patience_s: float = PATIENCE_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.exit_code: int | None = None
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._first = signal.SIGTERM
        self._first_at = 0.0
        self._is_patient = self._is_overdue = False
        self._is_unhurried = self._is_late = False
        self._leaving = threading.Lock()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Let the block see `exit_code` and end by itself; SystemExit is raised in it when it takes too long."""
        self._is_patient = True
        try:
            yield
        finally:
            with self._leaving:
                self._is_patient = False

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Let the block end, however long it takes; where patience runs out in it, SystemExit is raised behind it."""
        self._is_unhurried = True
        try:
            yield
        finally:
            self._is_unhurried = False
        if self._is_late:
            raise SystemExit(self.exit_code)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal; the first outside `patiently` raises SystemExit, a deliberate second ends the process."""
        if self._is_overdue:
            self._is_overdue = False
            self._is_late = self._is_unhurried
            if self._is_patient and not self._is_late:
                raise SystemExit(self.exit_code)
        elif self.exit_code is None:
            self._first, self._first_at = signal.Signals(number), self._monotonic()
            self.exit_code = 128 + number
            if not self._is_patient:
                raise SystemExit(self.exit_code)
            timer = threading.Timer(self._patience_s, self._lose_patience)
            timer.daemon = True
            timer.start()
        elif self._is_second(number):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _is_second(self, number: int) -> bool:
        wait_s = REPEAT_S if number in (self._first, signal.SIGINT) else GRACE_S
        return self._monotonic() - self._first_at >= wait_s

    def _lose_patience(self) -> None:
        """Interrupt the patient block, whatever it waits for; on a thread of its own."""
        with self._leaving:  # behind the block the default action may be back, which would kill
            if self._is_patient:
                self._is_overdue = True
                signal.pthread_kill(threading.main_thread().ident or 0, self._first)


@contextmanager
def handles_signals(interruption: Interruption | None = None) -> Iterator[Interruption]:
    """Handle signals during the block; outside the main thread, where Python allows no handlers, this does nothing."""
    interruption = interruption or Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number in SIGNALS if previous[number] in DEFAULTS]
    for number in ours:
        signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        for number in ours:
            signal.signal(number, previous[number])
