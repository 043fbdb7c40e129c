"""The sink itself: renders in the worker, and hands the lines to a thread that may wait for the terminal."""

from typing import TextIO

from rltelemetry.clock import Clock, SystemClock
from rltelemetry.labels import Labels
from rltelemetry.redact import escape_controls
from rltelemetry.schema import Category
from rltelemetry.sinks.console.mode import Mode
from rltelemetry.sinks.console.render import dashboard_line, json_line
from rltelemetry.sinks.console.writer import LineWriter
from rltelemetry.types import Record
from rltelemetry.values import safe_text

__all__ = ["ConsoleSink"]

_OWN_LOGGER = "rltelemetry"


class ConsoleSink:
    """Lines for whoever watches.

    Mode `off` shows no events, but still the pipeline's own warnings: data may wait behind them.

    Args:
        stream: where the lines go.
        labels: names of the fields.
        mode: `dashboard`, `json` or `off`.
        color: whether dashboard lines are coloured.
        clock: stamps the pipeline's own messages.
        has_footer: whether a line may stay below the others: `stream` is a terminal that can wipe it.
    """

    def __init__(
        self,
        stream: TextIO,
        labels: Labels,
        mode: Mode,
        color: bool = False,
        clock: Clock | None = None,
        has_footer: bool = False,
    ) -> None:
        self._labels = labels
        self._mode = mode
        self._color = color
        self._clock = clock or SystemClock()
        self._has_footer = has_footer and mode == "dashboard"
        self._writer = LineWriter(stream, self._describe_dropped)

    def emit(self, record: Record) -> None:
        """Show one record, unless a foreign chain has shown it already; never waits for the stream."""
        if record.console and self._mode != "off":
            self._writer.put(self._render(record))

    def commit(self) -> None:
        """Have the lines of one drain written."""
        self._writer.wake()

    def write(self, level: str, message: str) -> None:
        """Show a message of the pipeline itself at once; callable from any thread."""
        if self._mode != "off" or level != "info":
            self._writer.put(self._own_line(level, message), wake=True)

    def show_progress(self, text: str) -> None:
        """Keep a line below the others, on a terminal; callable from any thread, and never waits."""
        if self._has_footer:
            self._writer.set_footer(escape_controls(text))

    def flush(self, timeout_s: float) -> bool:
        """Wait until the stream has taken every line; False if it did not in time."""
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Flush and end; False if the stream did not take everything in time."""
        return self._writer.close(timeout_s)

    def _render(self, record: Record, no_metrics: bool = True) -> str:
        if self._mode == "json":
            return json_line(record)
        return dashboard_line(record, self._labels, self._color, no_metrics)

    def _own_line(self, level: str, message: str) -> str:
        event = safe_text(message)
        record = Record(self._clock.time_ns(), level, _OWN_LOGGER, event, Category.MISC, {})
        return self._render(record, no_metrics=False)

    def _describe_dropped(self, count: int) -> str:
        return self._own_line("warning", f"{count} console lines dropped: the terminal did not take them in time")
