"""What a spool is made of: rows, each of one kind, and the points that some of them hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from pydantic_core import from_json, to_json

from rltelemetry.types import MetricPoint

__all__ = ["MAX_ROW_POINTS", "Kind", "PointBatch", "Row", "Size", "decode_points", "encode_points"]

Kind = Literal["points", "traces", "call", "artifact"]

MAX_ROW_POINTS: Final = 1000
"""A row is read as a whole, however little of it is taken: a long drain becomes several rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a stream.

    Attributes:
        id: its place in the stream.
        kind: which stream.
        body: what it holds.
        count: how many units of it (spans, calls).
        epoch: which life of the database the id belongs to.
    """

    id: int
    kind: Kind
    body: bytes
    count: int
    epoch: int


@dataclass(slots=True)
class PointBatch:
    """Points from the head of the stream, and how to say that they have left.

    Attributes:
        epoch: which life of the database the row ids belong to.
        points: the points, oldest first.
        spent: ids of the rows that these points use up.
        rest: a row that keeps points: its id and how many of it have been taken.
        freed_bytes: the size of the spent rows.
        is_all: whether nothing is left behind them.
        unreadable: rows on the way whose bytes make no sense any more: their ids, and how many points each held.
    """

    epoch: int
    points: list[MetricPoint] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    rest: tuple[int, int] | None = None
    freed_bytes: int = 0
    is_all: bool = False
    unreadable: list[tuple[int, int]] = field(default_factory=list)

    @property
    def last_id(self) -> int:
        """The last row that these points come from; 0 if there are none."""
        return self.rest[0] if self.rest else max(self.spent, default=0)


class Size(NamedTuple):
    """How much of a kind there is.

    Attributes:
        rows: rows.
        units: what they hold that has not been taken: points, spans, calls.
        body_bytes: bytes of their bodies.
    """

    rows: int = 0
    units: int = 0
    body_bytes: int = 0


def encode_points(points: Sequence[MetricPoint]) -> bytes:
    """Return the body of a row of points."""
    return to_json([tuple(point) for point in points])  # as named tuples they take four times as long


def decode_points(body: bytes, start: int = 0, stop: int | None = None) -> list[MetricPoint]:
    """Return the points of a row from `start` to `stop`.

    Raises:
        ValueError: the bytes make no sense.
    """
    try:
        return [MetricPoint(*point) for point in from_json(body)[start:stop]]
    except (TypeError, LookupError) as error:  # JSON, but no rows of four
        raise ValueError(str(error)) from None
