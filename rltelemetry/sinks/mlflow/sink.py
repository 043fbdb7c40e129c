"""The face of MLflow delivery: records in, points and encoded spans into the spool."""

from collections.abc import Callable, Mapping, Sequence

from rltelemetry.extract import Reason, extract
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.ledger import Ledger
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.types import MetricPoint, Record

__all__ = ["MlflowSink"]

_WHY: Mapping[Reason, str] = {
    "bad_step": "its step is not a whole number",
    "infinite": "it is infinite, which MLflow would store as 1.8e308",
    "not_convertible": "it cannot be converted to a float",
    "not_scalar": "it is an array; log its mean or its norm",
    "on_device": "it is on an accelerator, and reading it would make training wait; log value.item() once an update",
    "step_out_of_range": "its step does not fit 64 bits",
    "too_many_fields": "its event has too many fields",
}


class MlflowSink:
    """Takes records on the worker thread.

    Args:
        settings: whether metrics are wanted.
        spool: where points and spans wait.
        points: the account of points, for those that are refused; the spool enters the others.
        notices: where refused values are said, once a key.
        on_commit: called after each commit, when all that has come lies in the spool.
    """

    def __init__(
        self, settings: Settings, spool: Spool, points: Ledger, notices: Notices, on_commit: Callable[[], None]
    ) -> None:
        self._wants_metrics = settings.metrics
        self._spool = spool
        self._points = points
        self._notices = notices
        self._on_commit = on_commit
        self._pending: list[MetricPoint] = []

    def emit(self, record: Record) -> None:
        """Extract a record's points."""
        if not self._wants_metrics:
            return
        points, refusals = extract(record)
        self.add_points(points)
        for key, reason in refusals:
            self._points.refuse(reason)
            cause = reason if reason == "too_many_fields" else f"{reason} {key}"
            self._notices.once(cause, f"{key} is no metric point: {_WHY[reason]}. Said once; all are counted.")

    def add_points(self, points: Sequence[MetricPoint]) -> None:
        """Take points, those that no event carries (system metrics) included."""
        self._pending += points

    def add_traces(self, spans: bytes, num_spans: int) -> None:
        """Take encoded spans."""
        self._spool.append_traces(spans, num_spans)

    def commit(self) -> None:
        """Put the points of this drain into the spool."""
        points, self._pending = self._pending, []
        if points:
            self._spool.append_points(points)
        self._spool.maintain()
        self._on_commit()
