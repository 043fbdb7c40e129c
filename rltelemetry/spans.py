"""Spans on the caller's side: a real current OpenTelemetry span, ended by the worker at the time it was left.

The end travels through the queue, behind the events that were logged inside the span, so that the worker can still
add them. A registry of open spans tells our spans from foreign ones, and lets closing end what is still open.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic, time_ns
from typing import Any, Final

from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)

from rltelemetry.handoff import Handoff, SpanEnd
from rltelemetry.redact import clean_text
from rltelemetry.trace_ids import new_span_id, new_trace_id
from rltelemetry.values import MAX_TRACEBACK, clean_field, safe_text, traceback_text

__all__ = ["UNTRACED", "SpanOpener", "add_foreign_event", "clean_attributes", "event_attributes"]

UNTRACED: Final = NonRecordingSpan(
    SpanContext(
        trace_id=new_trace_id(),
        span_id=new_span_id(),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )
)
"""A span that makes its children untraced, too: valid, but not sampled."""

INT64: Final = 2**63
"""OTLP drops an attribute with a larger integer; it is written as text."""


class SpanOpener:
    """Opens spans for the caller and sends their ends to the worker.

    Args:
        tracer: makes the spans; None when tracing is off.
        handoff: where the ends go.
        open_spans: the registry, shared with the hand-off and the worker.
        interval_s: at most one root span per so many seconds; the spans and events of a skipped one are not traced.
    """

    def __init__(self, tracer: Tracer | None, handoff: Handoff, open_spans: set[Span], interval_s: float) -> None:
        self._tracer = tracer
        self._handoff = handoff
        self._open_spans = open_spans
        self._interval_s = interval_s
        self._last_root_at = float("-inf")

    def span(self, name: str, inputs: Mapping[str, Any]) -> AbstractContextManager[Span]:
        """Make a span current for the block; an exception that leaves the block marks it ERROR and goes on."""
        current = get_current_span()
        if current is UNTRACED:
            return nullcontext(UNTRACED)
        is_root = not current.get_span_context().is_valid
        if self._tracer is None or (is_root and not self._is_due()):
            return _Untraced()
        return self._traced(self._tracer, name, inputs)

    @contextmanager
    def _traced(self, tracer: Tracer, name: str, inputs: Mapping[str, Any]) -> Iterator[Span]:
        span = self._start(tracer, name, inputs)
        error: BaseException | None = None
        with use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as raised:
                error = raised
                raise
            finally:
                if span in self._open_spans:
                    self._handoff.put_unbounded(SpanEnd(span, time_ns(), _describe(error)))

    def _start(self, tracer: Tracer, name: str, inputs: Mapping[str, Any]) -> Span:
        try:
            span = tracer.start_span(safe_text(name), attributes=event_attributes(inputs))
        except Exception:  # an instrumented SDK's sampler or processor may do anything
            return UNTRACED
        if span.is_recording():
            self._open_spans.add(span)
        return span

    def _is_due(self) -> bool:
        now = monotonic()
        if now - self._last_root_at < self._interval_s:
            return False
        self._last_root_at = now
        return True


def event_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make OTLP attributes of fields that nobody has looked at: numbers, texts and truth values."""
    names = {key: safe_text(key) for key in fields}
    return clean_attributes({names[key]: clean_field(names[key], value) for key, value in fields.items()})


def clean_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make OTLP attributes of a record's fields; None is left out, an integer too large for OTLP is written as text."""
    return {
        key: str(value) if type(value) is int and not -INT64 <= value < INT64 else value
        for key, value in fields.items()
        if value is not None
    }


def add_foreign_event(span: Span, event: str, fields: Mapping[str, Any], stamp_ns: int) -> None:
    """Add an event, as it was logged, to a span that its owner may end before our worker comes round."""
    span.add_event(safe_text(event) or "event", event_attributes(fields), timestamp=stamp_ns)


class _Untraced:
    """Make what the block opens and logs untraced; most updates of a fast loop are, so it is a class, and small."""

    __slots__ = ("_token",)

    def __enter__(self) -> Span:
        self._token = attach(set_span_in_context(UNTRACED))
        return UNTRACED

    def __exit__(self, *_error: object) -> None:
        detach(self._token)


def _describe(error: BaseException | None) -> tuple[str, str, str] | None:
    """Type, message and traceback of an error; a way out such as KeyboardInterrupt or SystemExit is none."""
    if not isinstance(error, Exception):
        return None
    try:
        message = str(error)
    except Exception:
        message = ""
    trace = clean_text(traceback_text(error), MAX_TRACEBACK, keep_newlines=True)
    return type(error).__qualname__, safe_text(message), trace
