"""The values that travel through the pipeline, and the protocol of the places where they end."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rltelemetry.schema import Category

__all__ = ["Fields", "MetricPoint", "Origin", "Record", "Sink"]

Fields = dict[str, Any]
"""An event's fields in the order in which the caller wrote them."""


class MetricPoint(NamedTuple):
    """One point of one curve. Equal points are stored once by MLflow, however often they are sent."""

    key: str
    value: float
    step: int
    timestamp_ms: int


class Origin(NamedTuple):
    """Where a pipeline comes from: a forked child logs into its parent's run and leaves the run's life to it.

    Attributes:
        client_uuid: this client's name for the run.
        run_id: the run, as far as the parent knew it.
        is_child: whether this is a forked child's pipeline.
        spool: the parent's spool, where it lies on disk.
    """

    client_uuid: str
    run_id: str | None = None
    is_child: bool = False
    spool: Path | None = None


class Record(NamedTuple):
    """A processed event: its values are safe to print, to encode and to compare.

    Attributes:
        time_ns: wall-clock time of the log call, nanoseconds since the epoch.
        level: lower-case level name, for example `info`.
        logger: the logger's name.
        event: the message.
        category: the normalised category.
        fields: what is left of the event's fields; numbers are Python numbers.
        span: the OpenTelemetry span that was current in the caller, or `handoff.ON_FOREIGN_SPAN`.
        console: whether the console still has to show it (a foreign structlog chain renders its own).
    """

    time_ns: int
    level: str
    logger: str
    event: str
    category: Category
    fields: Fields
    span: Any = None
    console: bool = True


class Sink(Protocol):
    """A place where records end. Called by the worker thread only."""

    def emit(self, record: Record) -> None:
        """Take one record; must not wait."""

    def commit(self) -> None:
        """The records of one drain are complete: make them durable."""
