"""A stored span as MLflow returns it: attributes that hold JSON come back as what the JSON says."""

import base64
import json
import math
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["plain_value", "span_json", "text_of"]


def span_json(span: Span, trace_id: str) -> dict[str, Any]:
    """Return a span as JSON."""
    parent = {"parent_span_id": _base64(span.parent_span_id)} if span.parent_span_id else {}
    status = {0: {}, 1: {"code": "STATUS_CODE_OK"}, 2: {"code": "STATUS_CODE_ERROR"}}
    own_id = {"key": "mlflow.traceRequestId", "value": {"string_value": trace_id}}
    return {
        "trace_id": _base64(span.trace_id),
        "span_id": _base64(span.span_id),
        **parent,
        "name": span.name,
        "start_time_unix_nano": span.start_time_unix_nano,
        "end_time_unix_nano": span.end_time_unix_nano,
        "attributes": [*_pairs(span.attributes), own_id],
        "events": [
            {"time_unix_nano": event.time_unix_nano, "name": event.name, "attributes": _pairs(event.attributes)}
            for event in span.events
        ],
        "status": status[span.status.code],
    }


def plain_value(value: AnyValue) -> Any:
    """Return an attribute's value; text that is a JSON object, list or string is taken apart, as MLflow does."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain_value(pair.value) for pair in value.kvlist_value.values}
    if kind == "string_value" and value.string_value[:1] in {"{", "[", '"'}:
        try:
            return json.loads(value.string_value)
        except ValueError:
            return value.string_value
    return getattr(value, kind) if kind else None


def text_of(value: AnyValue) -> str:
    """Return a value as the JSON text that a preview shows."""
    try:
        json.loads(value.string_value)
    except ValueError:
        return json.dumps(plain_value(value))
    return value.string_value


def _pairs(pairs: Any) -> list[dict[str, Any]]:
    return [{"key": pair.key, "value": _any_value(plain_value(pair.value))} for pair in pairs]


def _any_value(value: Any) -> dict[str, Any]:
    """Write a Python value as an OTLP value in JSON."""
    if isinstance(value, bool):
        return {"bool_value": value}
    if isinstance(value, int):
        return {"int_value": value}
    if isinstance(value, float):
        return {"double_value": value if math.isfinite(value) else _name_of(value)}
    if isinstance(value, bytes):
        return {"bytes_value": _base64(value)}
    if isinstance(value, list):
        return {"array_value": {"values": [_any_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlist_value": {"values": [{"key": key, "value": _any_value(value[key])} for key in value]}}
    return {} if value is None else {"string_value": value}


def _name_of(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
