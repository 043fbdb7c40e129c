"""The face of MLflow delivery: records in, points and encoded spans into the spool, exact counts out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rltelemetry.extract import Reason, extract
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.delivery import Delivery
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.types import MetricPoint, Record

__all__ = ["MlflowSink", "PointCounts"]

_WHY: Mapping[Reason, str] = {
    "bad_step": "its step is not a whole number",
    "infinite": "it is infinite, which MLflow would store as 1.8e308",
    "not_convertible": "it cannot be converted to a float",
    "not_scalar": "it is an array; log its mean or its norm",
    "on_device": "it is on an accelerator, and reading it would make training wait; log value.item() once an update",
    "step_out_of_range": "its step does not fit 64 bits",
    "too_many_fields": "its event has too many fields",
}


@dataclass(frozen=True)
class PointCounts:
    """extracted = sent + kept + dropped, exactly."""

    extracted: int
    sent: int
    kept: int
    dropped: Mapping[str, int]


class MlflowSink:
    """Takes records on the worker thread.

    Args:
        settings: whether metrics and traces are wanted.
        spool: where points and spans wait.
        delivery: what sends them.
        notices: where refused values are said, once a key.
    """

    def __init__(self, settings: Settings, spool: Spool, delivery: Delivery, notices: Notices) -> None:
        self._wants_metrics = settings.metrics
        self._spool = spool
        self._delivery = delivery
        self._notices = notices
        self._pending: list[MetricPoint] = []
        self._extracted = 0
        self._refused: Counter[str] = Counter()

    def emit(self, record: Record) -> None:
        """Extract a record's points."""
        if not self._wants_metrics:
            return
        points, refusals = extract(record)
        self._pending += points
        self._extracted += len(points) + len(refusals)
        for key, reason in refusals:
            self._refused[reason] += 1
            self._notices.once(
                f"{reason} {key}", f"{key} is no metric point: {_WHY[reason]}. Said once; all are counted."
            )

    def add_points(self, points: Sequence[MetricPoint]) -> None:
        """Take points that no event carries (system metrics)."""
        self._pending += points
        self._extracted += len(points)

    def add_traces(self, spans: bytes, _num_spans: int, roots: int) -> None:
        """Take encoded spans."""
        self._spool.append_traces(spans, roots)

    def commit(self) -> None:
        """Put the points of this drain into the spool."""
        if self._pending:
            points, self._pending = self._pending, []
            self._spool.append_points(points)

    def counts(self) -> PointCounts:
        """Count what became of the points so far."""
        dropped = self._refused + self._spool.dropped
        kept = self._spool.points_kept + len(self._pending)
        return PointCounts(self._extracted, self._delivery.points_sent, kept, dropped)
