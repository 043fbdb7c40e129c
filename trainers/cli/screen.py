"""Plain lines for the user, outside the telemetry: before it is open, and when there is none."""

import sys
from contextlib import suppress

__all__ = ["say"]


def say(line: str) -> None:
    """Write a line to stderr; a closed terminal is no reason to stop a training."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
