"""Traces: OTLP exports in, MLflow's view of them out."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rltelemetry.testing.exchange import Request
from rltelemetry.testing.fake_mlflow.answers import invalid
from rltelemetry.testing.fake_mlflow.filters import matcher, page
from rltelemetry.testing.fake_mlflow.spans import plain_value, span_json, text_of

__all__ = ["BadExport", "Trace", "Traces", "read_export"]

MAX_LINKS: Final = 100
MAX_PREVIEW: Final = 1000
TAG_PREFIX: Final = "mlflow.traceTag."
STATUS_ERROR: Final = 2
_ENTITIES: Final = {
    "": "attributes",
    "attributes": "attributes",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "span": "span",
    "tag": "tags",
    "tags": "tags",
    "trace": "attributes",
}


class BadExport(Exception):  # noqa: N818 - an answer, not an error of the test
    """An export that cannot be read: the status and the detail of the answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass
class Trace:
    """A trace, as far as its spans have arrived."""

    trace_id: str
    experiment_id: str
    start_ns: int
    end_ns: int
    state: str = "IN_PROGRESS"
    request_preview: str | None = None
    response_preview: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    run_ids: set[str] = field(default_factory=set)
    spans: dict[bytes, Span] = field(default_factory=dict)

    def add(self, span: Span, service: str | None) -> None:
        """Take a span, or another version of one that is known; what the trace says of itself only grows."""
        self.spans[span.span_id] = span
        self.start_ns = min(self.start_ns, span.start_time_unix_nano)
        self.end_ns = max(self.end_ns, span.end_time_unix_nano)
        attributes = {pair.key: pair.value for pair in span.attributes}
        for name, key in (("session.id", "mlflow.trace.session"), ("user.id", "mlflow.trace.user")):
            if name in attributes:
                self.metadata.setdefault(key, str(plain_value(attributes[name])))
        if service:
            self.tags.setdefault("service.name", service)
        if span.parent_span_id:
            return
        if self.state == "IN_PROGRESS":
            self.state = "ERROR" if span.status.code == STATUS_ERROR else "OK"
        self.request_preview = self.request_preview or _preview(attributes.get("mlflow.spanInputs"))
        self.response_preview = self.response_preview or _preview(attributes.get("mlflow.spanOutputs"))
        tags = (key for key in attributes if key.startswith(TAG_PREFIX))
        self.tags |= {key.removeprefix(TAG_PREFIX): str(plain_value(attributes[key])) for key in tags}

    @property
    def info(self) -> dict[str, Any]:
        """The trace without its spans, as JSON."""
        previews = {"request_preview": self.request_preview, "response_preview": self.response_preview}
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiment_id}}
        return {
            "trace_id": self.trace_id,
            "trace_location": location,
            "execution_duration": f"{(self.end_ns - self.start_ns) / 1e9:.3f}s",
            "state": self.state,
            "trace_metadata": self.metadata,
            "tags": self.tags,
            **{name: preview for name, preview in previews.items() if preview is not None},
        }

    @property
    def json(self) -> dict[str, Any]:
        """The trace with its spans, the earliest first, as JSON."""
        spans = sorted(self.spans.values(), key=lambda span: (span.start_time_unix_nano, bool(span.parent_span_id)))
        return {"trace_info": self.info, "spans": [span_json(span, self.trace_id) for span in spans]}

    def matches(self, lookup_of: Any) -> bool:
        """Say whether a filter holds; one on spans or runs holds if it does for any of them."""
        names = {span.name for span in self.spans.values()}
        runs: set[str | None] = {*self.run_ids} or {None}
        return any(lookup_of(self._lookup(name, run)) for name in names for run in runs)

    def _lookup(self, span_name: str, run_id: str | None) -> Any:
        own = {
            "request_id": self.trace_id,
            "trace_id": self.trace_id,
            "run_id": run_id,
            "status": self.state,
            "name": self.tags.get("mlflow.traceName"),
        }

        def lookup(entity: str, key: str) -> str | None:
            if entity == "span":
                return span_name if key == "name" else None
            if entity == "metadata":
                return run_id if key == "mlflow.sourceRun" else self.metadata.get(key)
            if entity == "tags":
                return self.tags.get(key)
            if key not in own:
                raise invalid(f"Invalid attribute key '{key}' specified.")
            return own[key]

        return lookup


class Traces:
    """The store. Not thread-safe: one request at a time."""

    def __init__(self) -> None:
        self.by_id: dict[str, Trace] = {}

    def add(self, export: ExportTraceServiceRequest, experiment_id: str) -> list[str]:
        """Store an export, all or nothing; returns the ids of the traces whose root was in it."""
        spans = [(span, _service(group)) for group in export.resource_spans for span in _spans_of(group)]
        if not all(span.trace_id and span.span_id for span, _ in spans):
            raise BadExport(422, "Cannot convert OpenTelemetry span to MLflow span")
        for span, service in spans:
            trace_id = f"tr-{span.trace_id.hex()}"
            start, end = span.start_time_unix_nano, span.end_time_unix_nano
            trace = self.by_id.setdefault(trace_id, Trace(trace_id, experiment_id, start, end))
            trace.add(span, service)
        return list(dict.fromkeys(f"tr-{span.trace_id.hex()}" for span, _ in spans if not span.parent_span_id))

    def link(self, trace_ids: Iterable[str], run_id: str) -> bool:
        """Link traces to a run; False if there are too many. Unknown ones are no error."""
        listed = list(trace_ids)
        if len(listed) > MAX_LINKS:
            return False
        for trace_id in listed:
            if trace_id in self.by_id:
                self.by_id[trace_id].run_ids.add(run_id)
        return True

    def delete(self, experiment_id: str, trace_ids: Iterable[str]) -> int:
        """Delete those traces that are in an experiment, and say how many they were."""
        known = [each for each in trace_ids if each in self.by_id and self.by_id[each].experiment_id == experiment_id]
        for trace_id in known:
            del self.by_id[trace_id]
        return len(known)

    def search(self, message: Any) -> tuple[list[Trace], dict[str, str]]:
        """Return a page of traces, the latest first, and what to add to the answer."""
        matches = matcher(message.filter, _ENTITIES)
        experiments = {location.mlflow_experiment.experiment_id for location in message.locations}
        inside = [trace for trace in self.by_id.values() if trace.experiment_id in experiments]
        found = sorted((trace for trace in inside if trace.matches(matches)), key=lambda trace: -trace.start_ns)
        chosen, more = page(found, message.page_token, message.max_results or 100)
        return list(chosen), more


def read_export(request: Request) -> ExportTraceServiceRequest:
    """Read an OTLP body, protobuf or JSON, plain or compressed.

    Raises:
        BadExport: it is none of these.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    if kind not in {"application/x-protobuf", "application/json"}:
        raise BadExport(400, f"Invalid Content-Type: {kind}. Expected: application/x-protobuf or application/json")
    body = _decompressed(request)
    export = ExportTraceServiceRequest()
    try:
        if kind == "application/json":
            json_format.Parse(_with_base64_ids(body), export, ignore_unknown_fields=True)
        else:
            export.ParseFromString(body)
    except (DecodeError, json_format.Error, ValueError):
        raise BadExport(400, "Invalid OpenTelemetry format") from None
    if not export.resource_spans:
        raise BadExport(400, "Invalid OpenTelemetry format - no spans found")
    return export


def _decompressed(request: Request) -> bytes:
    encoding = request.headers.get("content-encoding", "").lower()
    if not encoding:
        return request.body
    if encoding not in {"gzip", "deflate"}:
        raise BadExport(400, f"Unsupported Content-Encoding: {encoding}")
    try:
        return gzip.decompress(request.body) if encoding == "gzip" else zlib.decompress(request.body)
    except (OSError, EOFError, zlib.error):
        raise BadExport(400, f"Failed to decompress {encoding} payload") from None


def _with_base64_ids(body: bytes) -> str:
    """OTLP writes identifiers as hex in JSON, protobuf expects base64."""

    def convert(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        ids = {"traceId", "spanId", "parentSpanId"}
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode() if key in ids and value else value
            for key, value in pairs
        }

    return json.dumps(json.loads(body, object_pairs_hook=convert))


def _spans_of(group: Any) -> Iterable[Span]:
    return (span for scope in group.scope_spans for span in scope.spans)


def _service(group: Any) -> str | None:
    names = (pair.value.string_value for pair in group.resource.attributes if pair.key == "service.name")
    return next(names, None)


def _preview(value: Any) -> str | None:
    return None if value is None else text_of(value)[:MAX_PREVIEW]
