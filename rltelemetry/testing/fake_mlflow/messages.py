"""How MLflow reads a JSON body: through protobuf, and going on with what was read when that fails half-way.

This is the reason why a bare NaN or a float step loses every later metric of a batch under a 200: the parser stops
there, its error is swallowed, and the half-filled message is stored. Using the same parser on the same message types
gives the same holes, without a list of them.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from rltelemetry.testing.exchange import Request
from rltelemetry.testing.fake_mlflow.answers import invalid

__all__ = ["read"]

PACKAGE: Final = "fake_mlflow"
HINT: Final = "See the API docs for more information about request parameters."


@dataclass(frozen=True)
class _Field:
    """A field of a request: `kind` is a protobuf type or the name of another message."""

    kind: str
    is_list: bool = False
    is_required: bool = False
    parts: tuple[str, ...] = ()  # fields that each element of a list must have


_TEXT = _Field("string")
_ID = _Field("string", is_required=True)
_LONG = _Field("int64")
_TAGS = _Field("Pair", is_list=True, parts=("key",))

_MESSAGES: Final[dict[str, dict[str, _Field]]] = {
    "Pair": {"key": _TEXT, "value": _TEXT},
    "Metric": {"key": _TEXT, "value": _Field("double"), "timestamp": _LONG, "step": _LONG},
    "LogBatch": {
        "run_id": _ID,
        "metrics": _Field("Metric", is_list=True, parts=("key", "value", "timestamp")),
        "params": _TAGS,
        "tags": _TAGS,
    },
    "LogMetric": {
        "run_id": _ID,
        "key": _ID,
        "value": _Field("double", is_required=True),
        "timestamp": _Field("int64", is_required=True),
        "step": _LONG,
    },
    "LogParam": {"run_id": _ID, "key": _ID, "value": _TEXT},
    "SetTag": {"run_id": _ID, "key": _ID, "value": _TEXT},
    "CreateRun": {
        "experiment_id": _TEXT,
        "user_id": _TEXT,
        "start_time": _LONG,
        "tags": _Field("Pair", is_list=True),
        "run_name": _TEXT,
    },
    "UpdateRun": {"run_id": _ID, "status": _Field("RunStatus"), "end_time": _LONG, "run_name": _TEXT},
    "RunById": {"run_id": _ID},
    "SearchRuns": {
        "experiment_ids": _Field("string", is_list=True),
        "filter": _TEXT,
        "run_view_type": _Field("ViewType"),
        "max_results": _LONG,
        "page_token": _TEXT,
    },
    "GetMetricHistory": {"run_id": _ID, "metric_key": _ID, "max_results": _LONG, "page_token": _TEXT},
    "GetTrend": {"run_ids": _Field("string", is_list=True), "metric_key": _ID, "max_results": _LONG},
    "ExperimentById": {"experiment_id": _ID},
    "ExperimentByName": {"experiment_name": _ID},
    "CreateExperiment": {"name": _ID, "tags": _Field("Pair", is_list=True)},
    "SearchExperiments": {"max_results": _LONG, "page_token": _TEXT, "filter": _TEXT},
    "ExperimentLocation": {"experiment_id": _TEXT},
    "TraceLocation": {"mlflow_experiment": _Field("ExperimentLocation")},
    "SearchTraces": {
        "locations": _Field("TraceLocation", is_list=True, is_required=True),
        "filter": _TEXT,
        "max_results": _LONG,
        "page_token": _TEXT,
    },
    "TraceById": {"trace_id": _ID},
    "DeleteTraces": {"experiment_id": _ID, "request_ids": _Field("string", is_list=True)},
    "LinkTraces": {"trace_ids": _Field("string", is_list=True, is_required=True), "run_id": _ID},
}
_ENUMS: Final = {
    "RunStatus": ("UNSPECIFIED", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"),
    "ViewType": ("ANY", "ACTIVE_ONLY", "DELETED_ONLY", "ALL"),
}


def read(name: str, request: Request) -> Any:
    """Read a request as MLflow does.

    Raises:
        Refused: a required field is missing, or of a wrong type where MLflow looks.
        Exception: the body breaks MLflow's handler, which answers 500.
    """
    fields = _MESSAGES[name]
    body = _query_fields(fields, request) if request.method == "GET" else _json_body(request)
    message = _CLASSES[name]()
    was_parsed = True
    try:
        json_format.ParseDict(body, message, ignore_unknown_fields=True)
    except json_format.ParseError:
        was_parsed = False
    for key, field in fields.items():
        if key in body or field.is_required:
            _validate(key, field, body.get(key), was_parsed=was_parsed)
    return message


def _query_fields(fields: dict[str, _Field], request: Request) -> dict[str, Any]:
    known = {key: values for key, values in request.query.items() if key in fields}
    return {key: values if fields[key].is_list else values[0] for key, values in known.items()}


def _json_body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise invalid("Bad Request. Content-Type must be one of ['application/json'].")
    body = json.loads(request.body)
    if not isinstance(body, dict):
        raise TypeError("not an object")
    return body


def _validate(key: str, field: _Field, value: Any, *, was_parsed: bool) -> None:
    """Check one field of the raw body; types only where the parser gave up."""
    if not was_parsed and not _is_of_type(field, value):
        raise invalid(
            f"Invalid value {value!r} for parameter '{key}' supplied: Hint: Value was of type "
            f"'{type(value).__name__}'. {HINT}"
        )
    if field.is_required and value in (None, ""):
        raise invalid(f"Missing value for required parameter '{key}'. {HINT}")
    for index, item in enumerate(value if field.parts else ()):
        missing = next((part for part in field.parts if item.get(part) in (None, "")), None)
        if missing:
            raise invalid(f"Missing value for required parameter '{key}[{index}].{missing}'. {HINT}")


def _is_of_type(field: _Field, value: Any) -> bool:
    if field.is_list:
        return isinstance(value, list)
    if field.kind == "int64":
        try:
            int(value)
        except ValueError:
            return False
        return True
    return field.kind != "string" or isinstance(value, str)


def _build() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto2")
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for number, (key, field) in enumerate(fields.items(), start=1):
            _describe(described, key, number, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


def _describe(message: descriptor_pb2.DescriptorProto, key: str, number: int, field: _Field) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    label = types.LABEL_REPEATED if field.is_list else types.LABEL_OPTIONAL
    described = message.field.add(name=key, number=number, label=label)
    if field.kind in _MESSAGES or field.kind in _ENUMS:
        described.type = types.TYPE_MESSAGE if field.kind in _MESSAGES else types.TYPE_ENUM
        described.type_name = f".{PACKAGE}.{field.kind}"
    else:
        described.type = {"string": types.TYPE_STRING, "int64": types.TYPE_INT64, "double": types.TYPE_DOUBLE}[
            field.kind
        ]


_CLASSES: Final = _build()
