"""Ids of traces and spans, from the system's random numbers.

Not from the global generator, as OpenTelemetry's own are: a training seeds that one. Two runs with one seed would have
the same trace ids, and tracing would change the training's random numbers.
"""

import random
from typing import Final

__all__ = ["new_span_id", "new_trace_id"]

_SYSTEM: Final = random.SystemRandom()


def new_trace_id() -> int:
    """Return 128 random bits, never all 0."""
    return _SYSTEM.getrandbits(128) or 1


def new_span_id() -> int:
    """Return 64 random bits, never all 0."""
    return _SYSTEM.getrandbits(64) or 1
