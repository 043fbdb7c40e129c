"""The console sink: dashboard lines for a terminal, JSON lines for everything else."""

from rltelemetry.sinks.console.mode import Mode, can_redraw, resolve_mode
from rltelemetry.sinks.console.sink import ConsoleSink

__all__ = ["ConsoleSink", "Mode", "can_redraw", "resolve_mode"]
