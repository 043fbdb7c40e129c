"""Why a run did not finish, as the one line that its page shows."""

import signal
from typing import Final

from rltelemetry.values import safe_text

__all__ = ["DIED", "reason_of"]

MAX_REASON: Final = 500
"""Characters; the whole traceback stands on the console."""

DIED: Final = "the process died without a word (kill -9, out of memory, power cut)"


def reason_of(cause: object) -> str:
    """Return the reason that a cause means: one line, without secrets; empty if there is none.

    Args:
        cause: the exception that has ended the program, a signal, a text, or None.
    """
    try:
        return _reason_of(cause)
    except Exception:  # the cause's own code runs here
        return safe_text(cause, MAX_REASON)


def _reason_of(cause: object) -> str:
    if cause is None:
        return ""
    if isinstance(cause, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(cause, signal.Signals):
        return cause.name
    if isinstance(cause, SystemExit):
        return _reason_of_exit(cause.code)
    return safe_text(cause, MAX_REASON)


def _reason_of_exit(code: object) -> str:
    if not isinstance(code, int):
        return safe_text(code, MAX_REASON) if code else ""
    try:
        return signal.Signals(code - 128).name  # a program that handles signals itself
    except ValueError:
        return f"exit code {code}" if code else ""
