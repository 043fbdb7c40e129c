"""The current OpenTelemetry span, read with two C calls.

`opentelemetry.trace.get_current_span` takes 0.29 us, a tenth of what a log call may cost. It looks a key up in a
context that a context variable holds; both are found here by experiment, through the public API alone. Where that
fails (another runtime context is configured), the public function serves.
"""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, Final

from opentelemetry.context import Context, attach
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, get_current_span, set_span_in_context

__all__ = ["current_span"]

EMPTY: Final = Context()


def _reader() -> Callable[[], Span]:
    probe = set_span_in_context(NonRecordingSpan(INVALID_SPAN.get_span_context()), EMPTY)
    variable = copy_context().run(_variable_that_holds, probe)
    if variable is None or len(probe) != 1:
        return get_current_span
    (key,) = probe
    read = variable.get

    def current_span() -> Span:
        span: Span = read(EMPTY).get(key, INVALID_SPAN)
        return span

    return current_span


def _variable_that_holds(context: Context) -> ContextVar[Any] | None:
    attach(context)
    return next((variable for variable, value in copy_context().items() if value is context), None)


current_span: Final[Callable[[], Span]] = _reader()
"""Return the current span, INVALID_SPAN if there is none."""
