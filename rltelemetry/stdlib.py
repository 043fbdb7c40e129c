"""Standard-library log records -> the same queue, so that the console shows one stream under one filter.

Records that come from our own threads, or that speak of our own requests, are refused: a pipeline that exports the
log lines of its exporter never ends (one event became 34 000 in 0.3 s).
"""

import logging
from collections.abc import Callable
from typing import Final

from rltelemetry.channels import level_name
from rltelemetry.handoff import CELL

__all__ = ["OWN_THREADS", "StdlibHandler"]

OWN_THREADS: Final = "rltelemetry"
"""Every thread of ours has a name that starts so."""

OWN_LOGGERS: Final = ("rltelemetry", "opentelemetry.exporter", "opentelemetry.sdk")
"""Loggers that speak of our own exports, on whatever thread."""

STANDARD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class StdlibHandler(logging.Handler):
    """Hands records of the root logger over; installed only where the program has no handlers of its own.

    Args:
        threshold_of: the filter in force.
        console: whether our console shows the records.
    """

    def __init__(self, threshold_of: Callable[[str], int], console: bool = True) -> None:
        super().__init__()
        self._threshold_of = threshold_of
        self._console = console
        self._previous_level: int | None = None

    def install(self, level: int) -> bool:
        """Attach to the root logger if nobody else has; says whether it did."""
        root = logging.getLogger()
        if root.handlers:
            return False
        self._previous_level = root.level
        root.addHandler(self)
        root.setLevel(level)
        return True

    def remove(self) -> None:
        """Detach, and give the root logger its level back."""
        if self._previous_level is not None:
            logging.getLogger().removeHandler(self)
            logging.getLogger().setLevel(self._previous_level)
            self._previous_level = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record over; never raises."""
        if record.levelno < self._threshold_of(record.name) or _is_ours(record):
            return
        active = CELL.handoff()
        if active is None:
            return
        try:
            fields = {key: value for key, value in record.__dict__.items() if key not in STANDARD_FIELDS}
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            if record.stack_info:  # its text already
                fields["stack"] = record.stack_info
            level = level_name(record.levelno)
            stamp_ns = int(record.created * 1e9)
            active.put(level, record.name, _message(record), fields, {}, stamp_ns=stamp_ns, console=self._console)
        except Exception:
            active.drops.append("error")


def _is_ours(record: logging.LogRecord) -> bool:
    return (record.threadName or "").startswith(OWN_THREADS) or record.name.startswith(OWN_LOGGERS)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!r} {record.args!r}"
