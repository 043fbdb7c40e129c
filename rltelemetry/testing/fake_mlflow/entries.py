"""What a batch holds, checked as MLflow checks it: sizes, names, points, pairs."""

import math
import posixpath
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from rltelemetry.testing.fake_mlflow.answers import invalid

__all__ = ["MAX_PARAM", "MAX_TAG", "Point", "check_sizes", "to_pairs", "to_point"]

MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_TOGETHER = 1000, 100, 100, 1000
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000
MAX_FLOAT: Final = sys.float_info.max

_NAME: Final = re.compile(r"^[/\w.\- :]*$")


class Point(NamedTuple):
    """A stored point: its whole content is its identity, which is what makes a repeat harmless."""

    key: str
    value: float
    timestamp: int
    step: int
    is_nan: bool

    @property
    def rank(self) -> tuple[int, int, float]:
        """The greatest is the latest."""
        return self.step, self.timestamp, self.value

    @property
    def json(self) -> dict[str, Any]:
        """The point on the wire."""
        value = "NaN" if self.is_nan else self.value
        return {"key": self.key, "value": value, "timestamp": self.timestamp, "step": self.step}


def check_sizes(message: Any) -> None:
    """Refuse a batch with too many entries of a kind, or together."""
    sizes = {
        "metrics": (len(message.metrics), MAX_METRICS),
        "params": (len(message.params), MAX_PARAMS),
        "tags": (len(message.tags), MAX_TAGS),
        "metrics, params, and tags": (len(message.metrics) + len(message.params) + len(message.tags), MAX_TOGETHER),
    }
    for what, (size, limit) in sizes.items():
        if size > limit:
            raise invalid(f"A batch logging request can contain at most {limit} {what}. Got {size} {what}.")


def to_point(path: str, metric: Any) -> Point:
    """Turn a message into what is stored: NaN as a mark, infinities as the greatest float."""
    _check_name(f"{path}.name", metric.key)
    if metric.timestamp < 0:
        raise invalid(f"Invalid value {metric.timestamp} for parameter '{path}.timestamp' supplied.")
    is_nan = math.isnan(metric.value)
    value = 0.0 if is_nan else min(max(metric.value, -MAX_FLOAT), MAX_FLOAT)
    return Point(metric.key, value, metric.timestamp, metric.step, is_nan)


def to_pairs(path: str, pairs: Iterable[Any], longest: int) -> dict[str, str]:
    """Turn parameters or tags into a dict; values that are too long are cut."""
    listed = list(pairs)
    for index, pair in enumerate(listed):
        _check_name(f"{path}[{index}].key", pair.key)
    return {pair.key: pair.value[:longest] for pair in listed}


def _check_name(path: str, name: str) -> None:
    """Refuse what MLflow refuses: the batch falls with one bad key."""
    if not _NAME.match(name):
        raise invalid(
            f"Invalid value \"{name}\" for parameter '{path}' supplied: Names may only contain alphanumerics."
        )
    resolved = posixpath.normpath(name)
    if resolved != name or resolved == "." or resolved.startswith(("..", "/")):
        raise invalid(f"Invalid value \"{name}\" for parameter '{path}' supplied: it would resolve to '{resolved}'")
    if len(name) > MAX_NAME:
        raise invalid(f"'{path}' exceeds the maximum length of {MAX_NAME} characters")
