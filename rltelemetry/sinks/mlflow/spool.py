"""The spool: what has not been delivered yet, in one sqlite file per pipeline.

Its streams share one table, each first in, first out: metric points (a row a drain, taken apart freely), encoded
traces, calls (parameters, tags, status) and artifacts. A row leaves when the server has confirmed what it holds, or is
moved to the table of the dead; the ledgers move with it. What the next process needs to carry on stands in `meta`.

Only one thread uses it at a time: the one that opens it, then the worker.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.database import MEMORY_BYTES, Database
from rltelemetry.sinks.mlflow.ledger import Ledger
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.types import MetricPoint

__all__ = ["Kind", "PointBatch", "Row", "Spool"]

Kind = Literal["points", "traces", "call", "artifact"]

MAX_ROW_POINTS: Final = 1000
"""A row is read as a whole, however little of it is taken: a long drain becomes several rows."""

WIRE_BYTES: Final = 56
"""What a point takes on the wire beside its stored form: the names of its fields."""

SPARED: Final = 0.9
"""A full spool is emptied to this part of its size, so that it is not full again at once."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a stream.

    Attributes:
        id: its place in the stream.
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
    """

    epoch: int
    points: list[MetricPoint] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    rest: tuple[int, int] | None = None
    freed_bytes: int = 0


class Spool:
    """Unsent data of one pipeline.

    Args:
        file: where on disk; None keeps everything in memory.
        settings: size and durability.
        notices: where trouble is said.
        clock: the time source.
        points: the account of points: its `kept` is what waits here; what the file holds already is entered.
        spans: the same for spans.
    """

    def __init__(
        self, file: SpoolFile | None, settings: Settings, notices: Notices, clock: Clock, points: Ledger, spans: Ledger
    ) -> None:
        self._file = file
        self._settings = settings
        self._notices = notices
        self._ledgers: dict[str, Ledger] = {"points": points, "traces": spans}
        self._lent = {"points": 0, "traces": 0}
        self._db = Database(file, settings.spool_durability, notices, clock)
        self._is_closed = False
        self._epoch = self._db.num_moves
        self._bytes, found = self._measure()
        for kind, count in found.items():
            self._ledgers[kind].extract(count)

    @property
    def path(self) -> Path | None:
        """Where the data lies; None while it is in memory."""
        return self._db.path

    @property
    def points_kept(self) -> int:
        """How many points wait here."""
        return self._ledgers["points"].kept

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not any(self.waiting().values())

    def waiting(self) -> dict[str, int]:
        """Count the rows that wait, by kind."""
        query = "SELECT kind, count(*) FROM rows GROUP BY kind"
        counts: dict[str, int] = self._db.read(lambda db: dict(db.execute(query).fetchall()))
        return {"points": 1, **counts} if self._db.has_left_behind else counts

    def get(self, key: str) -> Any:
        """Return a fact about the run, None if it is not known."""
        row = self._db.read(lambda db: db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone())
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: Any) -> None:
        """Remember a fact about the run."""
        entry = (key, json.dumps(value))
        self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", entry))

    def append_points(self, points: Sequence[MetricPoint]) -> None:
        """Store the points of one drain."""
        for start in range(0, len(points), MAX_ROW_POINTS):
            piece = points[start : start + MAX_ROW_POINTS]
            try:
                self._append("points", json.dumps(piece).encode(), len(piece))
            except sqlite3.Error:
                self._ledgers["points"].refuse("spool_failed", len(points) - start)
                raise

    def append_traces(self, spans: bytes, count: int) -> None:
        """Store encoded spans."""
        self._append("traces", spans, count)

    def append_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Store something else that the server must be told."""
        kind: Kind = "artifact" if name == "artifact" else "call"
        self._append(kind, json.dumps([name, dict(arguments)]).encode(), 1)

    def head(self, kind: Kind) -> Row | None:
        """Return the oldest row of a stream."""
        self._follow_moves()
        query = "SELECT id, body, count FROM rows WHERE kind = ? ORDER BY id LIMIT 1"
        found = self._db.read(lambda db: db.execute(query, (kind,)).fetchone())
        if found is None:
            return None
        row = Row(found[0], kind, found[1], found[2], self._epoch)
        if kind in self._lent:
            self._lent[kind] = row.id
        return row

    def ack(self, row: Row) -> None:
        """Let a row go: the server has it."""
        if self._remove(row, None) and row.kind in self._ledgers:
            self._ledgers[row.kind].send(row.count)

    def bury(self, row: Row, reason: str) -> None:
        """Move a row to the dead: the server will never take it."""
        if self._remove(row, reason) and row.kind in self._ledgers:
            self._ledgers[row.kind].drop("refused", row.count)

    def points(self, limit: int, max_bytes: int) -> PointBatch:
        """Return the oldest points: at most `limit`, in a request of about `max_bytes`."""
        self._follow_moves()
        batch = PointBatch(self._epoch)
        if unreadable := self._db.read(lambda db: _gather(db, batch, limit, max_bytes)):
            self._drop_unreadable(unreadable)
        ids = [*batch.spent, *([batch.rest[0]] if batch.rest else [])]
        self._lent["points"] = max(ids, default=0)
        return batch

    def ack_points(self, batch: PointBatch, dead: Sequence[tuple[MetricPoint, str]] = ()) -> None:
        """Let a batch go: the server has its points, but for the dead ones, which it refuses."""

        def settle(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM rows WHERE id = ?", [(row_id,) for row_id in batch.spent])
            if batch.rest is not None:
                db.execute("UPDATE rows SET taken = ? WHERE id = ?", (batch.rest[1], batch.rest[0]))
            buried = [(json.dumps(point).encode(), reason) for point, reason in dead]
            db.executemany("INSERT INTO dead (body, reason) VALUES (?, ?)", buried)

        self._follow_moves()
        if batch.epoch != self._epoch:
            return  # these ids are others' now; the points will be sent again, which is harmless
        self._db.write(settle)
        self._bytes -= batch.freed_bytes
        self._ledgers["points"].send(len(batch.points) - len(dead))
        self._ledgers["points"].drop("poison", len(dead))

    def maintain(self) -> None:
        """Do what is due on the disk."""
        self._db.maintain()
        self._follow_moves()

    def close(self) -> None:
        """Close; the file goes when nothing waits in it, and is put aside when all that is left is refused for good."""
        if self._is_closed:
            return
        self._is_closed = True
        self._db.return_to_disk()
        self._follow_moves()
        if self.path is None and not self._db.has_left_behind:
            for ledger in self._ledgers.values():
                ledger.drop("memory_lost", ledger.kept)
        num_dead = self._db.read(lambda db: db.execute("SELECT count(*) FROM dead").fetchone()[0])
        aside = self._db.close("keep" if not self.is_empty else "aside" if num_dead else "remove")
        if aside is not None:
            self._notices.info(f"{num_dead} entries that MLflow has refused for good are in {aside} (table dead)")

    def _append(self, kind: Kind, body: bytes, count: int) -> None:
        row = (kind, count, body)
        self._db.write(lambda db: db.execute("INSERT INTO rows (kind, count, body) VALUES (?, ?, ?)", row))
        self._bytes += len(body)
        if kind in self._ledgers:
            self._ledgers[kind].extract(count)
        self._follow_moves()
        if self._bytes > self._capacity:
            self._drop_oldest()

    @property
    def _capacity(self) -> int:
        most = self._settings.spool_max_bytes
        return most if self.path is not None or self._file is None else min(most, MEMORY_BYTES)

    def _remove(self, row: Row, reason: str | None) -> bool:
        """Delete a row; False if it went another way meanwhile."""

        def delete(db: sqlite3.Connection) -> int:
            if reason is not None:
                db.execute("INSERT INTO dead (body, reason) VALUES (?, ?)", (row.body, reason))
            return db.execute("DELETE FROM rows WHERE id = ?", (row.id,)).rowcount

        self._follow_moves()
        if row.epoch != self._epoch or self._db.write(delete) == 0:
            return False
        self._bytes -= len(row.body)
        return True

    def _drop_oldest(self) -> None:
        """Make room: whole rows of points and traces, oldest first, counted; but for those on their way just now."""
        query = (
            "SELECT id, kind, count - taken, length(body) FROM rows WHERE kind = 'points' AND id > ? "
            "OR kind = 'traces' AND id > ? ORDER BY id"
        )
        excess = self._bytes - int(SPARED * self._capacity)

        def doom(db: sqlite3.Connection) -> list[tuple[str, int, int]]:
            doomed, freed = [], 0
            with closing(db.execute(query, (self._lent["points"], self._lent["traces"]))) as rows:
                for row in rows:
                    if freed >= excess:
                        break
                    doomed.append(row)
                    freed += row[3]
            db.executemany("DELETE FROM rows WHERE id = ?", [(row[0],) for row in doomed])
            return [row[1:] for row in doomed]

        for kind, count, size in self._db.write(doom):
            self._bytes -= size
            self._ledgers[kind].drop("spool_full", count)
        lost = self._ledgers["points"].dropped("spool_full")
        self._notices.warn(
            "spool full",
            f"the spool is full ({self._capacity >> 20} MB): the oldest data is dropped, {lost} points so far",
        )

    def _drop_unreadable(self, rows: Sequence[tuple[int, int]]) -> None:
        """Drop rows whose bytes no longer make sense: nobody can send them."""
        self._db.write(lambda db: db.executemany("DELETE FROM rows WHERE id = ?", [(row_id,) for row_id, _ in rows]))
        for _, count in rows:
            self._ledgers["points"].drop("unreadable", count)

    def _follow_moves(self) -> None:
        """Count anew after the data has moved between disk and memory: a failing disk may have kept some of it."""
        if self._db.num_moves == self._epoch:
            return
        self._epoch = self._db.num_moves
        self._lent = dict.fromkeys(self._lent, 0)
        self._bytes, found = self._measure()
        if self._db.has_left_behind:
            return  # the rest is not lost: it waits in the file
        for kind, count in found.items():
            ledger = self._ledgers[kind]
            if count > ledger.kept:  # a file that could not be opened at first can be now
                ledger.extract(count - ledger.kept)
            else:
                ledger.drop("disk_failed", ledger.kept - count)

    def _measure(self) -> tuple[int, dict[str, int]]:
        query = "SELECT kind, total(length(body)), total(count - taken) FROM rows GROUP BY kind"
        rows = self._db.read(lambda db: db.execute(query).fetchall())
        counts = {kind: int(count) for kind, _, count in rows}
        return int(sum(size for _, size, _ in rows)), {kind: counts.get(kind, 0) for kind in self._ledgers}


def _gather(db: sqlite3.Connection, batch: PointBatch, limit: int, max_bytes: int) -> list[tuple[int, int]]:
    """Fill a batch from the head of the stream; returns ids and counts of the rows that cannot be read."""
    unreadable = []
    room_bytes = float(max_bytes)
    query = "SELECT id, body, count, taken FROM rows WHERE kind = 'points' ORDER BY id"
    with closing(db.execute(query)) as rows:
        for row_id, body, count, taken in rows:
            point_bytes = len(body) / count + WIRE_BYTES
            fitting = max(int(room_bytes / point_bytes), 0 if batch.points else 1)
            wanted = min(count - taken, limit - len(batch.points), fitting)
            if wanted <= 0:
                break
            try:
                points = [MetricPoint(*point) for point in json.loads(body)[taken : taken + wanted]]
            except (ValueError, TypeError):
                unreadable.append((row_id, count - taken))
                continue
            batch.points += points
            room_bytes -= wanted * point_bytes
            if taken + wanted < count:
                batch.rest = (row_id, taken + wanted)
                break
            batch.spent.append(row_id)
            batch.freed_bytes += len(body)
    return unreadable
