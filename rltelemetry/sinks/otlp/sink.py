"""Records and span ends -> finished spans -> OTLP bytes for MLflow's spool, and any other OTLP back end.

Runs on the worker thread. Events become span events of the span they were logged in; an event outside any span, or
later than its span's end, becomes a zero-length span of its own. The root of a trace carries, for MLflow's trace
list, its inputs and the last numbers that were logged inside it.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context

from rltelemetry.handoff import ON_FOREIGN_SPAN, SpanEnd
from rltelemetry.schema import STEP_FIELDS
from rltelemetry.sinks.otlp.foreign import ForeignBackEnd, foreign_endpoint
from rltelemetry.spans import clean_attributes
from rltelemetry.trace_ids import new_span_id, new_trace_id
from rltelemetry.types import Record

__all__ = ["MAX_ROOTS", "OtlpSink"]

MAX_ROOTS: Final = 100
"""MLflow links a run to none of the traces of an export with more roots than this."""

MAX_SPANS: Final = 256
"""Encoding is pure Python (40 us an event) and holds the GIL: small pieces."""

MAX_EVENTS: Final = 1024
"""Events a span keeps; the SDK's default of 128 loses the rest silently."""

MAX_OUTPUTS: Final = 32
"""Numbers shown in a root's outputs."""

MAX_TRACES: Final = 256
"""Traces whose outputs are remembered: the root of some is not ours, or has ended before what is logged inside it."""

NO_PARENT: Final = Context()
"""The worker's own context may hold anything; an event of its own starts a trace."""


class OtlpSink:
    """Adds events to spans, ends spans, and hands what is finished over as bytes.

    Args:
        service_name: the `service.name` of every span.
        deliver: takes encoded spans and their number; None when MLflow gets no traces.
        run_id: the run's id as far as it is known; becomes the session of each trace.
        open_spans: the registry of spans that callers have open.
        environ: where a foreign OTLP back end is configured.
        refuse: counts spans that cannot be encoded, by reason.
    """

    def __init__(
        self,
        service_name: str,
        deliver: Callable[[bytes, int], None] | None,
        run_id: Callable[[], str | None],
        open_spans: set[ApiSpan],
        environ: Mapping[str, str] = os.environ,
        refuse: Callable[[str, int], None] = lambda _reason, _count: None,
    ) -> None:
        self._deliver = deliver
        self._refuse = refuse
        self._run_id = run_id
        self._open_spans = open_spans
        self._finished: list[ReadableSpan] = []
        self._outputs: dict[int, dict[str, float]] = {}
        self._closing: threading.Thread | None = None
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service_name}),
            span_limits=SpanLimits(max_events=MAX_EVENTS),
            id_generator=_SystemIds(),
            shutdown_on_exit=False,
        )
        self.tracer: Tracer = self._provider.get_tracer("rltelemetry")
        if deliver is not None:
            self._provider.add_span_processor(_Collector(self._finished))
        self._foreign = ForeignBackEnd(environ) if foreign_endpoint(environ) else None
        if self._foreign is not None:
            self._provider.add_span_processor(self._foreign)

    @property
    def num_unconfirmed(self) -> int:
        """How many spans a foreign back end has not confirmed; after `close`, those that it has lost."""
        return self._foreign.num_unconfirmed if self._foreign is not None else 0

    def emit(self, record: Record) -> None:
        """Put a record on its span, or on one of its own."""
        if record.span is ON_FOREIGN_SPAN:
            return
        span = record.span
        if span is not None and span.is_recording():
            span.add_event(record.event or "event", _attributes(record), timestamp=record.time_ns)
            self._remember_outputs(span, record)
        elif span is None or not span.get_span_context().is_valid:
            self._own_span(record)
        elif span.get_span_context().trace_flags.sampled:
            self._own_span(record, parent=span)

    def end_span(self, end: SpanEnd) -> None:
        """End a span at the time it was left; everything logged inside it has been added."""
        span = end.span
        self._open_spans.discard(span)
        if not isinstance(span, Span):
            return
        if end.error is not None:
            kind, message, trace = end.error
            exception = {"exception.type": kind, "exception.message": message, "exception.stacktrace": trace}
            span.add_event("exception", exception, timestamp=end.time_ns)
            span.set_status(Status(StatusCode.ERROR, f"{kind}: {message}"))
        self._describe_for_mlflow(span)
        span.end(end.time_ns)

    def end_open_spans(self, time_ns: int) -> None:
        """End what callers have left open, children first."""
        by_start = sorted(self._open_spans, key=lambda span: getattr(span, "start_time", 0) or 0, reverse=True)
        for span in by_start:
            self.end_span(SpanEnd(span, time_ns))

    def commit(self) -> None:
        """Encode the finished spans and hand them over."""
        while self._finished and self._deliver is not None:
            self._hand_over(self._take(), self._deliver)

    def begin_close(self) -> None:
        """Let a foreign back end send what it still has, beside everything else that the end of the program needs."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._provider.shutdown, name="rltelemetry-otlp-close", daemon=True)
            self._closing.start()

    def close(self, timeout_s: float) -> None:
        """Wait for the foreign back end; its own shutdown may take half a minute, ours may not."""
        self.begin_close()
        if self._closing is not None:
            self._closing.join(timeout_s)

    def _own_span(self, record: Record, parent: ApiSpan | None = None) -> None:
        context = set_span_in_context(parent) if parent is not None else NO_PARENT
        name, attributes = record.event or "event", _attributes(record)
        span = self.tracer.start_span(name, context, attributes=attributes, start_time=record.time_ns)
        if parent is None and isinstance(span, Span):
            self._describe_for_mlflow(span)
        span.end(record.time_ns)

    def _remember_outputs(self, span: ApiSpan, record: Record) -> None:
        """Keep the last value of each number by trace, for the root's outputs."""
        outputs = self._outputs.setdefault(span.get_span_context().trace_id, {})
        while len(self._outputs) > MAX_TRACES:
            del self._outputs[next(iter(self._outputs))]
        prefix = record.category.prefix
        for key, value in record.fields.items():
            if type(value) in {int, float} and math.isfinite(value):
                name = key if key in STEP_FIELDS else prefix + key
                if name in outputs or len(outputs) < MAX_OUTPUTS:
                    outputs[name] = value

    def _describe_for_mlflow(self, span: Span) -> None:
        """Fill what MLflow's trace list shows; a child only says what kind it is."""
        inputs = {key: value for key, value in (span.attributes or {}).items() if not key.startswith("mlflow.")}
        span.set_attribute("mlflow.spanInputs", json.dumps(inputs, default=str))
        span.set_attribute("mlflow.spanType", "TASK" if span.parent else "CHAIN")
        if span.parent is not None:
            return
        outputs = self._outputs.pop(span.get_span_context().trace_id, {})
        span.set_attribute("mlflow.spanOutputs", json.dumps(outputs))
        if run_id := self._run_id():
            span.set_attribute("session.id", run_id)

    def _hand_over(self, spans: Sequence[ReadableSpan], deliver: Callable[[bytes, int], None]) -> None:
        """Encode some spans; one that cannot be, for what a program has put on it itself, costs itself only."""
        try:
            encoded = encode_spans(spans).SerializeToString()
        except Exception:
            if len(spans) == 1:
                self._refuse("encoding", 1)
                return
            for span in spans:
                self._hand_over([span], deliver)
            return
        deliver(encoded, len(spans))

    def _take(self) -> list[ReadableSpan]:
        """Take the next piece: at most MAX_SPANS spans and MAX_ROOTS roots."""
        count = roots = 0
        for span in self._finished[:MAX_SPANS]:
            roots += span.parent is None
            if roots > MAX_ROOTS:
                break
            count += 1
        taken = self._finished[:count]
        del self._finished[:count]
        return taken


def _attributes(record: Record) -> dict[str, Any]:
    return {"category": record.category.value, "level": record.level, **clean_attributes(record.fields)}


class _SystemIds(IdGenerator):
    """Ids that no seed decides."""

    def generate_span_id(self) -> int:
        return new_span_id()

    def generate_trace_id(self) -> int:
        return new_trace_id()

    def is_trace_id_random(self) -> bool:
        return True


class _Collector(SpanProcessor):
    """Keeps finished spans until the end of the drain."""

    def __init__(self, finished: list[ReadableSpan]) -> None:
        self._finished = finished

    def on_end(self, span: ReadableSpan) -> None:
        self._finished.append(span)
