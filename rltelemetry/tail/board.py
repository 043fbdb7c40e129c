"""What is known of a run at a moment: a short curve for each key, and how its data travels."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from rltelemetry.sinks.mlflow import Waiting
from rltelemetry.types import MetricPoint

__all__ = ["Board", "Series"]

MAX_POINTS: Final = 512
"""Points kept of a key: more than a terminal is wide."""

RATE_WINDOW_MS: Final = 60_000
"""The rate of a key is that of its last minute."""


class Series:
    """The curve of one key, by step; equal points count once, as in MLflow."""

    def __init__(self) -> None:
        self._points: list[MetricPoint] = []

    @property
    def latest(self) -> MetricPoint:
        """The point that MLflow would show: the greatest by step, then by time."""
        return self._points[-1]

    @property
    def values(self) -> list[float]:
        """The values in the order of their steps."""
        return [point.value for point in self._points]

    def add(self, point: MetricPoint) -> None:
        """Take a point in."""
        place = bisect_right(self._points, _order(point), key=_order)
        if place == 0 or self._points[place - 1] != point:
            self._points.insert(place, point)
        if len(self._points) > MAX_POINTS:
            del self._points[1]  # the first one stays: it is where the curve began

    def steps_per_second(self, now_ms: int) -> float:
        """How fast the step of this key advances: 0 once no point has come for a minute."""
        recent = [point for point in self._points if now_ms - point.timestamp_ms <= RATE_WINDOW_MS]
        if len(recent) < 2:
            return 0.0
        took_ms = recent[-1].timestamp_ms - recent[0].timestamp_ms
        return 1000 * (recent[-1].step - recent[0].step) / took_ms if took_ms > 0 else 0.0


@dataclass
class Board:
    """Everything that a frame shows.

    Attributes:
        title: the run's name, or what stands for it.
        url: the run's page; empty if it is not known.
        status: MLflow's word for how the run is; empty if it is not known.
        owner: whether the process that writes the spool lives; None if there is no spool.
        waiting: what waits in the spool.
        problem: why MLflow does not answer; empty if it does, or was not asked.
        series: each key's curve.
    """

    title: str
    url: str = ""
    status: str = ""
    owner: bool | None = None
    waiting: Waiting = field(default_factory=Waiting)
    problem: str = ""
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        if self.owner is not None:
            return not self.owner
        return self.status not in {"", "RUNNING", "SCHEDULED"}

    def add(self, points: Iterable[MetricPoint]) -> None:
        """Take points in, of any keys."""
        for point in points:
            self.series.setdefault(point.key, Series()).add(point)


def _order(point: MetricPoint) -> tuple[int, int]:
    return point.step, point.timestamp_ms
