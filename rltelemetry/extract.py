"""Event -> metric points: pure, total, and silent about nothing that it refuses.

Stands between the processed record and the metrics sink, on the worker's hot path. The contract (step fields,
reserved fields, prefixes) is data in `schema`; the rules below keep MLflow from storing a wrong point or refusing
a whole batch: exact types, a step inside int64, no infinities (stored as 1.8e308), keys of the accepted alphabet.
"""

from math import isinf
from typing import Any, Literal, NamedTuple, get_args

from rltelemetry.keys import mlflow_key
from rltelemetry.schema import RESERVED_FIELDS, STEP_FIELDS, Category
from rltelemetry.types import Fields, MetricPoint, Record

__all__ = ["MAX_POINTS", "Extraction", "Reason", "Refusal", "extract", "metric_key"]

MAX_POINTS = 512
"""Points of one event; an event with more is a bug in the caller that must not fill the disk."""

Reason = Literal[
    "bad_step",
    "infinite",
    "not_convertible",
    "not_scalar",
    "on_device",
    "step_out_of_range",
    "too_many_fields",
]
"""Why a field, or with its step the whole event, gives no point."""


class Refusal(NamedTuple):
    """A number that gives no point: under which metric key (or step field), and why."""

    key: str
    reason: Reason


class Extraction(NamedTuple):
    """What one event gives."""

    points: list[MetricPoint]
    refusals: list[Refusal]


_PREFIXES = {category: category.prefix for category in Category}
_NEVER_METRICS = RESERVED_FIELDS.union(STEP_FIELDS)
_NO_NUMBERS = frozenset({bool, str, type(None), bytes, list, tuple, dict, set, frozenset})
_CONTAINERS = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
_REASONS = frozenset(get_args(Reason))
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_EXACT_INT = 2**53


def extract(record: Record) -> Extraction:
    """Return the metric points of `record` and the refusals; both empty if it carries no step."""
    points: list[MetricPoint] = []
    refusals: list[Refusal] = []
    step = _step_of(record.fields)
    if isinstance(step, Refusal):
        refusals.append(step)
    elif step is not None:
        _extract_fields(record, step, points, refusals)
    return Extraction(points, refusals)


def metric_key(category: Category, field: str) -> str:
    """Return the wire key of a field: prefixed, and made acceptable to MLflow where it is not."""
    return mlflow_key(_PREFIXES[category], field)


def _extract_fields(record: Record, step: int, points: list[MetricPoint], refusals: list[Refusal]) -> None:
    prefix = _PREFIXES[record.category]
    timestamp_ms = record.time_ns // 1_000_000
    for field, value in record.fields.items():
        if field in _NEVER_METRICS:
            continue
        kind = type(value)
        number: float | Reason | None
        if kind is float:
            number = value
        elif kind in _NO_NUMBERS:
            continue
        elif kind is int and -_EXACT_INT < value < _EXACT_INT:
            number = float(value)
        else:
            number = _to_float(value)
            if number is None:
                continue
        key = mlflow_key(prefix, field)
        if isinstance(number, str):
            refusals.append(Refusal(key, number))
        elif isinf(number):
            refusals.append(Refusal(key, "infinite"))
        elif len(points) >= MAX_POINTS:
            refusals.append(Refusal(key, "too_many_fields"))
        else:
            points.append(MetricPoint(key, number, step, timestamp_ms))


def _step_of(fields: Fields) -> int | Refusal | None:
    """Return the step that the first present step field gives; None counts as absent."""
    for name in STEP_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        step = value if type(value) is int else _to_int(value)
        if step is None:
            return Refusal(name, "bad_step")
        if not _INT64_MIN <= step <= _INT64_MAX:
            return Refusal(name, "step_out_of_range")
        return step
    return None


def _to_int(value: Any) -> int | None:
    """Return an integral number as int; None for all else, text and truth values included."""
    try:
        number = value.item() if hasattr(value, "item") and not _shape_of(value) else value
        if isinstance(number, (bool, str, bytes)) or not hasattr(type(number), "__int__"):
            return None
        step = int(number)
        return step if bool(step == number) else None
    except Exception:  # the value's own code runs here; whatever it does, the event survives
        return None


def _to_float(value: Any) -> float | Reason | None:
    """Return the number, the reason why it is refused, or None for what is no number at all."""
    try:
        if isinstance(value, _CONTAINERS):
            refusal = getattr(value, "refusal", None)  # a text that stands for a number nobody could read
            return refusal if refusal in _REASONS else None
        if _shape_of(value):
            return "not_scalar"
        if getattr(value, "is_cuda", False) is True:
            return "on_device"
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, complex):
            return "not_convertible"
        if isinstance(number, (bool, *_CONTAINERS)) or not hasattr(type(number), "__float__"):
            return None
        return float(number)
    except Exception:  # the value's own code runs here; whatever it does, the other fields survive
        return "not_convertible"


def _shape_of(value: Any) -> tuple[Any, ...]:
    shape = getattr(value, "shape", ())
    return shape if isinstance(shape, tuple) else ()
