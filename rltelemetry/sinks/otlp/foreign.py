"""An OTLP back end beside MLflow, as the standard variables name it: the stock exporter, with a count of its losses.

The SDK's batch processor drops what its queue has no room for, what the back end refuses, and what is left when the
program ends; each of these it logs at best. Here a span counts until the back end has confirmed it.
"""

import os
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["ForeignBackEnd", "foreign_endpoint"]


class ForeignBackEnd(SpanProcessor):
    """Sends spans in the background, on the SDK's own thread.

    Args:
        environ: which protocol the back end speaks; the exporter reads the rest of its variables itself.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._exporter = _Confirmed(_stock_exporter(environ))
        self._processor = BatchSpanProcessor(self._exporter)
        self._num_ended = 0

    @property
    def num_unconfirmed(self) -> int:
        """How many spans have ended here and not arrived there; once it is shut down, they never will."""
        return self._num_ended - self._exporter.num_spans

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is done with a span that has not ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._num_ended += 1
            self._processor.on_end(span)

    def shutdown(self) -> None:
        """Send what waits; may take half a minute."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits."""
        return self._processor.force_flush(timeout_millis)


class _Confirmed(SpanExporter):
    """An exporter that counts what has arrived."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.num_spans = 0
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.num_spans += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def foreign_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the OTLP endpoint that the standard variables name, if they do."""
    if environ.get("OTEL_TRACES_EXPORTER") in {"none", "console"}:
        return None
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None


def _stock_exporter(environ: Mapping[str, str]) -> SpanExporter:
    """The protocol's own exporter, http/protobuf or grpc, imported only then."""
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
