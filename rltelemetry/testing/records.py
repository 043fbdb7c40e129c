"""What a training logs, as the sinks would see it, without a pipeline, a console or a server."""

import contextlib
from collections.abc import Iterator

import structlog

from rltelemetry import loggers
from rltelemetry.chain import to_record
from rltelemetry.channels import set_thresholds
from rltelemetry.extract import extract
from rltelemetry.handoff import CELL, Handoff, Snapshot
from rltelemetry.spans import add_foreign_event
from rltelemetry.types import MetricPoint, Record

__all__ = ["Captured", "RecordingSink", "captured"]

CAPACITY = 1_000_000
CAPACITY_BYTES = 1 << 30


class RecordingSink:
    """A `Sink` that keeps the records, and how many there were at each commit."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.commits: list[int] = []

    def emit(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)

    def commit(self) -> None:
        """Note that a drain is complete."""
        self.commits.append(len(self.records))


class Captured:
    """The events that were logged since the block was entered.

    Args:
        handoff: the queue in which they wait.
    """

    def __init__(self, handoff: Handoff) -> None:
        self._handoff = handoff
        self._sink = RecordingSink()

    @property
    def records(self) -> list[Record]:
        """The processed events, in the order in which they were logged."""
        queue = self._handoff.queue
        while queue:
            item = queue.popleft()
            if type(item) is tuple:
                self._sink.emit(to_record(Snapshot._make(item)))
        return list(self._sink.records)

    @property
    def points(self) -> list[MetricPoint]:
        """The metric points that MLflow would be sent."""
        return [point for record in self.records for point in extract(record).points]


@contextlib.contextmanager
def captured() -> Iterator[Captured]:
    """Collect what structlog's loggers log inside the block, whatever their level.

    A pipeline that is open meanwhile sees nothing of it. On leaving, structlog is configured as it was.

    Example:
        with captured() as log:
            train(updates=1)
        assert "trainer/critic_loss" in {point.key for point in log.points}
    """
    handoff = Handoff(CAPACITY, CAPACITY_BYTES, set(), add_foreign_event)
    was_configured, config = structlog.is_configured(), structlog.get_config()
    # A logger bound before holds on to this very list, so it is changed in place.
    chain, before = config["processors"], list(config["processors"])
    active = CELL.active
    loggers.take_over(chain)
    threshold_of = set_thresholds(lambda _name: 0)
    CELL.active = handoff
    try:
        yield Captured(handoff)
    finally:
        CELL.active = active
        set_thresholds(threshold_of)
        chain[:] = before
        if was_configured:
            structlog.configure(**config)
        else:
            structlog.reset_defaults()
