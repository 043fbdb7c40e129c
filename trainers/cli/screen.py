"""Plain lines for the user, outside the telemetry: before it is open, and when there is none."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["complain", "is_first_rank", "say"]


def is_first_rank(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process talks for all that torchrun has started."""
    return environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Write a line to stderr, once for all ranks."""
    if is_first_rank():
        complain(line)


def complain(line: str) -> None:
    """Write a line to stderr, from any rank; a closed terminal is no reason to stop a training."""
    if not is_first_rank():
        line = f"[rank {os.environ['RANK']}] {line}"
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
