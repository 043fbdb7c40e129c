"""Signals -> an orderly exit: the program unwinds, the telemetry says KILLED and flushes, the code is 128 + number.

Only default actions are replaced: `nohup` ignores SIGHUP, and it stays ignored.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["GRACE_S", "exits_on_signals"]

GRACE_S: Final = 10.0
"""A dropped session sends SIGHUP and then SIGTERM: the second must not cut the flush short."""

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
DEFAULTS: Final = (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def exits_on_signals(monotonic: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Raise SystemExit(128 + number) in the block when SIGINT, SIGTERM or SIGHUP comes.

    Further ones are ignored for GRACE_S, but for a second Ctrl-C, which ends the process at once.
    Outside the main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number in SIGNALS if previous[number] in DEFAULTS]
    first_at = float("-inf")

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        if monotonic() - first_at < GRACE_S:
            return
        first_at = monotonic()
        if signal.SIGINT in ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, previous[number])
