"""The ways in which a program ends, and the run status that each one means.

FINISHED: return, exit code 0. FAILED: an exception, another exit code. KILLED: Ctrl-C, SIGTERM, SIGHUP (a dropped SSH
session). Signal handlers are installed only in the main thread and only over the default action; after closing, the
signal is raised again, so that the parent sees the true cause of death.

Closing is bounded, so a signal that comes meanwhile waits for its end: a dropped session sends SIGHUP and then SIGTERM,
a pool tells its workers to leave and then kills them. Whoever insists is obeyed.
"""

import atexit
import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Literal, get_args

__all__ = ["ENDING_SIGNALS", "STATUSES", "Endings", "Status", "status_of"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""MLflow's names for how a run ended."""

STATUSES: Final[tuple[Status, ...]] = get_args(Status)

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP

ENDING_SIGNALS: Final = frozenset(
    getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""By which a program is asked to end, whoever handles them."""

KILLED_EXIT_CODES: Final = frozenset(128 + number for number in ENDING_SIGNALS)
"""What a program that handles these signals itself exits with."""

CAUGHT: Final = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)

INSIST_S: Final = 1.0
"""A signal that comes so long after one that waits means it."""


def status_of(error: BaseException | None) -> Status:
    """Return the run status that an exception leaving the program, or none, means."""
    if error is None:
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt):
        return "KILLED"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int | None) else 1
        if code in KILLED_EXIT_CODES:
            return "KILLED"
        return "FAILED" if code else "FINISHED"
    return "FAILED"


class Endings:
    """Watches how the program ends and closes once, with the right status.

    Args:
        close: closes the pipeline with a status and what has caused it, an exception or a signal; must be harmless when
            called twice.
        handle_signals: whether to watch SIGTERM and SIGHUP.
    """

    def __init__(self, close: Callable[[Status, object], None], handle_signals: bool) -> None:
        self._close = close
        self._handle_signals = handle_signals
        self._uncaught: BaseException | None = None
        self._previous_hook: Callable[..., Any] = sys.excepthook
        self._handled: list[signal.Signals] = []
        self._is_closing = False
        self._waiting: tuple[int, float] | None = None

    def install(self) -> None:
        """Watch the end of this process."""
        atexit.register(self._at_exit)
        self._previous_hook = sys.excepthook
        sys.excepthook = self._on_uncaught
        self.watch_signals()

    def watch_signals(self) -> None:
        """Handle the signals that nobody else does, if this is the main thread; a forked child does so once more."""
        if self._handle_signals and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if _is_default(number):
                    signal.signal(number, self._on_signal)
                    self._handled.append(number)

    @property
    def handled(self) -> tuple[signal.Signals, ...]:
        """The signals whose handlers are ours."""
        return tuple(number for number in self._handled if signal.getsignal(number) == self._on_signal)

    def become_child(self) -> None:
        """Give the signals back, in a forked child: until it has something to close, they end it at once."""
        self._is_closing, self._waiting = False, None
        self._give_back()

    def begin_close(self) -> None:
        """Closing begins: give the hooks back, and let signals wait for its end."""
        self._is_closing = True
        atexit.unregister(self._at_exit)
        if sys.excepthook == self._on_uncaught:
            sys.excepthook = self._previous_hook

    def end_close(self) -> None:
        """Closing is over: give the signals back, and raise one that has waited."""
        self._is_closing = False
        if threading.current_thread() is threading.main_thread():
            self._give_back()
        if self._waiting is not None:
            os.kill(os.getpid(), self._waiting[0])

    def _give_back(self) -> None:
        for number in self.handled:
            signal.signal(number, signal.SIG_DFL)
        self._handled.clear()

    def _at_exit(self) -> None:
        self._close(status_of(self._uncaught), self._uncaught)
        if isinstance(self._uncaught, KeyboardInterrupt):
            _remind_of_interrupt()

    def _on_uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._uncaught = error
        self._previous_hook(kind, error, trace)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_closing:
            now = time.monotonic()
            if self._waiting is None:
                self._waiting = number, now
            if now - self._waiting[1] < INSIST_S:
                return
        self._close("KILLED", signal.Signals(number))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _is_default(number: signal.Signals) -> bool:
    """Whether nobody handles a signal; native code (torch's, in a DataLoader) may do so unknown to Python."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        caught = CAUGHT.search(Path("/proc/self/status").read_text())
    except OSError:  # no Linux
        return True
    return caught is None or not int(caught[1], 16) >> (number - 1) & 1


def _remind_of_interrupt() -> None:
    """Keep the exit status of an unhandled Ctrl-C.

    CPython remembers that the program died of one, and ends itself by SIGINT, but forgets it when any code is compiled
    from text afterwards, as dataclasses and named tuples of a module imported at exit are. This makes it remember.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")
