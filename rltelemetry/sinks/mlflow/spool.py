"""The spool: what has not been delivered yet, in one sqlite file per pipeline.

Three streams share one table, each first in, first out: metric points (one row a drain, taken apart freely), encoded
traces, and calls (parameters, tags, status, artifacts). A row leaves only when the server has confirmed what it holds,
or is moved to the table of the dead. What the next process needs to carry on stands in `meta`.

Only one thread uses it at a time: the one that opens it, then the worker. When the disk fails, the spool goes on in
memory, and returns to disk when it can.
"""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.storage import SpoolFile, connect_disk, connect_memory, default_directory
from rltelemetry.types import MetricPoint

__all__ = ["PointBatch", "Row", "Spool"]

Kind = Literal["points", "traces", "call"]
T = TypeVar("T")

CHECKPOINT_S: Final = 1.0
"""Bounds what a power cut can take: without it, synchronous=NORMAL loses everything since the last one."""

RETURN_S: Final = 5.0
"""How often a spool that went to memory tries the disk again."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a stream, oldest first."""

    id: int
    body: bytes
    count: int


@dataclass(frozen=True, slots=True)
class PointBatch:
    """Points from the head of the stream, and how to say that they have left.

    Attributes:
        points: the points, oldest first.
        spent: ids of the rows that these points use up.
        rest: a row that keeps points: its id and how many of it have been taken.
    """

    points: list[MetricPoint]
    spent: list[int]
    rest: tuple[int, int] | None


class Spool:
    """Unsent data of one pipeline.

    Args:
        file: where on disk; None keeps everything in memory from the start.
        settings: size and durability.
        notices: where trouble is said.
        clock: the time source.
    """

    def __init__(self, file: SpoolFile | None, settings: Settings, notices: Notices, clock: Clock) -> None:
        self.dropped: Counter[str] = Counter()
        self.points_kept = 0
        self._file = file
        self._settings = settings
        self._notices = notices
        self._clock = clock
        self._checkpoint_at = self._return_at = clock.monotonic()
        self._is_on_disk = False
        self._db = connect_memory()
        if file is not None:
            self._go_to_disk("the spool cannot be opened")
        self._bytes, self.points_kept = self._measure()

    @classmethod
    def open(cls, settings: Settings, notices: Notices, clock: Clock, client_uuid: str) -> "Spool":
        """Start the spool of a new pipeline, in a file of its own."""
        directory = settings.spool_dir or default_directory()
        spool = cls(SpoolFile.new(directory, clock.time_ns()), settings, notices, clock)
        spool.put("client_uuid", client_uuid)
        spool.put("tracking_uri", settings.tracking_uri)
        return spool

    @property
    def path(self) -> Path | None:
        """Where the data lies; None while it is in memory only."""
        return self._file.path if self._file is not None and self._is_on_disk else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        (rows,) = self._db.execute("SELECT count(*) FROM rows").fetchone()
        return bool(rows == 0)

    def get(self, key: str) -> Any:
        """Return a fact about the run, None if it is not known."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: Any) -> None:
        """Remember a fact about the run."""
        entry = (key, json.dumps(value))
        self._write(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", entry))

    def append_points(self, points: Sequence[MetricPoint]) -> None:
        """Store the points of one drain."""
        if points:
            self.points_kept += len(points)
            self._append("points", json.dumps(points).encode(), len(points))

    def append_traces(self, spans: bytes, roots: int) -> None:
        """Store encoded spans."""
        self._append("traces", spans, roots)

    def append_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Store something else that the server must be told."""
        self._append("call", json.dumps([name, dict(arguments)]).encode(), 1)

    def head(self, kind: Kind) -> Row | None:
        """Return the oldest row of a stream."""
        query = "SELECT id, body, count FROM rows WHERE kind = ? ORDER BY id LIMIT 1"
        row = self._db.execute(query, (kind,)).fetchone()
        return Row(*row) if row else None

    def ack(self, row: Row) -> None:
        """Let a row go: the server has it."""
        self._write(lambda db: db.execute("DELETE FROM rows WHERE id = ?", (row.id,)))
        self._bytes -= len(row.body)

    def bury(self, row: Row, reason: str) -> None:
        """Move a row to the dead: the server will never take it."""

        def move(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO dead (body, reason) VALUES (?, ?)", (row.body, reason))
            db.execute("DELETE FROM rows WHERE id = ?", (row.id,))

        self._write(move)
        self._bytes -= len(row.body)

    def points(self, limit: int) -> PointBatch:
        """Return the oldest `limit` points, fewer if there are fewer."""
        points: list[MetricPoint] = []
        spent: list[int] = []
        query = "SELECT id, body, taken FROM rows WHERE kind = 'points' ORDER BY id"
        with contextlib.closing(self._db.execute(query)) as rows:
            for row_id, body, taken in rows:
                waiting = json.loads(body)[taken:]
                room = limit - len(points)
                points += [MetricPoint(*point) for point in waiting[:room]]
                if len(waiting) > room:
                    return PointBatch(points, spent, (row_id, taken + room) if room else None)
                spent.append(row_id)
                if len(points) == limit:
                    break
        return PointBatch(points, spent, None)

    def ack_points(self, batch: PointBatch, dead: Sequence[tuple[MetricPoint, str]] = ()) -> None:
        """Let a batch go: the server has its points, but for the dead ones, which it refuses."""

        def settle(db: sqlite3.Connection) -> int:
            marks = ",".join("?" * len(batch.spent))
            query = f"SELECT total(length(body)) FROM rows WHERE id IN ({marks})"
            (freed,) = db.execute(query, batch.spent).fetchone()
            db.executemany("DELETE FROM rows WHERE id = ?", [(row_id,) for row_id in batch.spent])
            if batch.rest is not None:
                db.execute("UPDATE rows SET taken = ? WHERE id = ?", (batch.rest[1], batch.rest[0]))
            buried = [(json.dumps(point).encode(), reason) for point, reason in dead]
            db.executemany("INSERT INTO dead (body, reason) VALUES (?, ?)", buried)
            return int(freed)

        self._bytes -= self._write(settle)
        self.points_kept -= len(batch.points)

    def maintain(self) -> None:
        """Do what is due: a checkpoint, or a try to return to disk. Called by the delivery loop."""
        now = self._clock.monotonic()
        if self._is_on_disk and now >= self._checkpoint_at:
            self._checkpoint_at = now + CHECKPOINT_S
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        elif not self._is_on_disk and self._file is not None and now >= self._return_at:
            self._return_at = now + RETURN_S
            if self._go_to_disk():
                self._notices.info(f"the spool is on disk again: {self._file.path}")

    def close(self, is_done: bool) -> None:
        """Close; the file goes when nothing is in it and the run's life is over."""
        is_spent = is_done and self.is_empty
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._file is not None:
            self._file.release(remove=is_spent)

    def _append(self, kind: Kind, body: bytes, count: int) -> None:
        row = (kind, count, body)
        self._write(lambda db: db.execute("INSERT INTO rows (kind, count, body) VALUES (?, ?, ?)", row))
        self._bytes += len(body)
        if self._bytes > self._settings.spool_max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Make room: whole rows of points and traces, oldest first, counted."""
        query = "SELECT id, kind, count - taken, length(body) FROM rows WHERE kind != 'call' ORDER BY id"
        excess, doomed = self._bytes - int(0.9 * self._settings.spool_max_bytes), []
        for row_id, kind, count, size in self._db.execute(query).fetchall():
            if excess <= 0:
                break
            doomed.append((row_id,))
            excess -= size
            self._bytes -= size
            if kind == "points":
                self.dropped["spool_full"] += count
                self.points_kept -= count
        self._write(lambda db: db.executemany("DELETE FROM rows WHERE id = ?", doomed))
        self._notices.warn(
            "spool full",
            f"the spool is full ({self._settings.spool_max_bytes >> 20} MB): the oldest points are dropped, "
            f"{self.dropped['spool_full']} so far",
        )

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change the database in one transaction; on a failing disk, in memory."""
        try:
            with self._db:
                return change(self._db)
        except sqlite3.DatabaseError as error:
            if not self._is_on_disk:
                raise
            self._go_to_memory(error)
            with self._db:
                return change(self._db)

    def _go_to_memory(self, error: sqlite3.DatabaseError) -> None:
        """Carry on without the disk. What stays in the file may be sent twice by a later `sync`: that is harmless."""
        where = self._file.path if self._file else ""
        is_damaged = not isinstance(error, sqlite3.OperationalError)
        if is_damaged and self._file is not None:
            where = self._file.quarantine()
        self._notices.once(
            "spool disk",
            f"the spool cannot be written ({error}): {where}. Unsent points are kept in memory until the disk is back.",
        )
        memory = connect_memory()
        with contextlib.suppress(sqlite3.Error):
            _copy(self._db, memory)
        self._db.close()
        self._db = memory
        self._is_on_disk = False
        self._return_at = self._clock.monotonic() + RETURN_S

    def _go_to_disk(self, complaint: str = "") -> bool:
        """Move everything from memory to the file; says whether that worked."""
        assert self._file is not None
        try:
            disk = connect_disk(self._file, self._settings.spool_durability)
        except (OSError, sqlite3.Error) as error:
            if complaint:
                self._notices.once(
                    "spool disk",
                    f"{complaint} ({error}): {self._file.path}. Unsent points are kept in memory; they are lost if "
                    "this process dies.",
                )
            return False
        try:
            if not self._is_pristine():
                _copy(self._db, disk)
        except sqlite3.Error:
            disk.close()
            return False
        self._db.close()
        self._db = disk
        self._is_on_disk = True
        return True

    def _is_pristine(self) -> bool:
        return self.is_empty and self._db.execute("SELECT count(*) FROM meta").fetchone() == (0,)

    def _measure(self) -> tuple[int, int]:
        sizes = self._db.execute("SELECT total(length(body)) FROM rows").fetchone()
        counts = self._db.execute("SELECT total(count - taken) FROM rows WHERE kind = 'points'").fetchone()
        return int(sizes[0]), int(counts[0])


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Make `target` hold what `source` holds, in one transaction."""
    with target:
        for table, columns in (("meta", 2), ("rows", 5), ("dead", 3)):
            target.execute(f"DELETE FROM {table}")
            marks = ",".join("?" * columns)
            rows = source.execute(f"SELECT * FROM {table}")
            target.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
