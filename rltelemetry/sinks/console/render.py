"""A record as text: one dashboard line for eyes, or one JSON object for machines. Pure, and total.

11-24 02:00:01  TRAINER    train  Timesteps: 2048 | Critic Loss: 0.00031
11-24 02:00:02  MISC       WARNING  spool is half full  No metrics
"""

import json
import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeGuard

from rltelemetry.labels import Labels
from rltelemetry.processors import TRACEBACK_FIELDS
from rltelemetry.redact import escape_controls
from rltelemetry.schema import Category
from rltelemetry.types import Record
from rltelemetry.values import clean_value, safe_text

__all__ = ["dashboard_line", "format_value", "json_line"]

_CATEGORY_WIDTH = max(len(category.value) for category in Category)
_MAX_PAIRS = 64  # more would fill the terminal with one event; JSON mode has them all
_MAX_SHOWN = 500

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_CATEGORY_COLORS = {
    Category.TRAINER: "\x1b[36m",
    Category.ACTOR: "\x1b[32m",
    Category.EVALUATOR: "\x1b[35m",
    Category.MISC: "\x1b[34m",
}
_CATEGORY_COLUMNS = {category: category.value.ljust(_CATEGORY_WIDTH) for category in Category}
_LEVEL_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m", "exception": "\x1b[31m"}


def dashboard_line(record: Record, labels: Labels, color: bool, no_metrics: bool = True) -> str:
    """Return the record for eyes: one line, and indented lines after it for a traceback.

    Args:
        record: a sanitised record.
        labels: names of the fields.
        color: whether to use ANSI colours.
        no_metrics: whether to say so when there are no fields.
    """
    stamp = _local_seconds(record.time_ns // 1_000_000_000)
    category = _CATEGORY_COLUMNS[record.category]
    head = f"{_paint(stamp, _DIM, color)}  {_paint(category, _CATEGORY_COLORS[record.category], color)}  "
    if record.level != "info":
        level_color = _LEVEL_COLORS.get(record.level, _DIM)
        head += f"{_paint(escape_controls(record.level.upper()), level_color, color)}  "
    head += escape_controls(record.event)
    pairs = _pairs(record, labels)
    if pairs:
        head += f"  {pairs}"
    elif no_metrics and not record.fields:
        head += f"  {_paint('No metrics', _DIM, color)}"
    return head + _tracebacks(record)


def json_line(record: Record) -> str:
    """Return the record as one JSON object; a field that bears the name of a fixed key gets a `_` behind it."""
    line: dict[str, Any] = {
        "timestamp": _utc_ms(record.time_ns),
        "level": record.level,
        "logger": record.logger,
        "category": record.category.value,
        "event": record.event,
    }
    for key, value in record.fields.items():
        name = key
        while name in line:
            name += "_"
        line[name] = _json_value(value)
    return json.dumps(line, allow_nan=False)


def format_value(value: Any) -> str:
    """Return a value as a reader wants it: floats at any magnitude, None as `-`."""
    kind = type(value)
    if kind is float:
        return f"{value:.0f}" if 1e6 <= abs(value) < 1e9 else f"{value:.6g}"
    if value is None:
        return "-"
    if kind is bool:
        return "true" if value else "false"
    text = value if kind is str else safe_text(value)
    return escape_controls(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def _pairs(record: Record, labels: Labels) -> str:
    texts = [
        f"{labels.label(key)}: {format_value(value)}"
        for key, value in record.fields.items()
        if key not in TRACEBACK_FIELDS or not _is_block(value)
    ]
    if len(texts) > _MAX_PAIRS:
        texts[_MAX_PAIRS:] = [f"... {len(texts) - _MAX_PAIRS} more"]
    return " | ".join(texts)


def _tracebacks(record: Record) -> str:
    blocks = [value for name in TRACEBACK_FIELDS if _is_block(value := record.fields.get(name))]
    return "".join(
        f"\n    {line}" for block in blocks for line in escape_controls(block, keep_newlines=True).split("\n")
    )


def _is_block(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and "\n" in value


def _json_value(value: Any) -> Any:
    if type(value) is float:
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (str, bool)) or value is None:
        return value
    clean = clean_value(value)
    return _json_value(clean) if type(clean) is float else clean


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_RESET}" if color else text


@lru_cache(maxsize=4)
def _local_seconds(seconds: int) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))


def _utc_ms(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{rest_ns // 1_000_000:03d}Z"
