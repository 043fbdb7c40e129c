"""The spool: what has not been delivered yet, in one sqlite file per pipeline.

Its streams share one table, each first in, first out: metric points (a row a drain, taken apart freely), encoded
traces, calls (parameters, tags, status) and artifacts. A row leaves when the server has confirmed what it holds, or is
moved to the table of the dead; the ledgers move with it. What the next process needs to carry on stands in `meta`.

Only one thread uses it at a time: the one that opens it, then the worker.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import tables
from rltelemetry.sinks.mlflow.database import MEMORY_BYTES, Database
from rltelemetry.sinks.mlflow.history import remember_steps
from rltelemetry.sinks.mlflow.ledger import Ledger
from rltelemetry.sinks.mlflow.rows import MAX_ROW_POINTS, Kind, PointBatch, Row, encode_points
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.types import MetricPoint

__all__ = ["Spool"]

SPARED: Final = 0.9
"""A full spool is emptied to this part of its size, so that it is not full again at once."""


class Spool:
    """Unsent data of one pipeline.

    Args:
        file: where on disk; None keeps everything in memory.
        settings: size and durability.
        notices: where trouble is said.
        clock: the time source.
        points: the account of points: its `kept` is what waits here; what the file holds already is entered.
        spans: the same for spans.
        heir_wait_s: for a file that another process has left; see `Database`.
    """

    def __init__(
        self,
        file: SpoolFile | None,
        settings: Settings,
        notices: Notices,
        clock: Clock,
        points: Ledger,
        spans: Ledger,
        *,
        heir_wait_s: float | None = None,
    ) -> None:
        self._file = file
        self._settings = settings
        self._notices = notices
        self._ledgers: dict[str, Ledger] = {"points": points, "traces": spans}
        self._lent = {"points": 0, "traces": 0, "artifact": 0}
        self._bare: set[Kind] = set()
        self._artifacts_dropped = 0
        self._db = Database(file, settings.spool_durability, notices, clock, heir_wait_s=heir_wait_s)
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
        return not self.waiting()

    def waiting(self) -> dict[str, int]:
        """Count the rows that wait, by kind."""
        counts = {kind: size.rows for kind, size in self._db.read(tables.measure).items()}
        return {"points": 1, **counts} if self._db.has_left_behind else counts

    def is_bare(self, kind: Kind) -> bool:
        """Whether it is known, without a look at the disk, that nothing of a kind waits."""
        self._follow_moves()
        return self.points_kept == 0 if kind == "points" else kind in self._bare

    def facts(self) -> Mapping[str, Any]:
        """Return what is known about the run."""
        return self._db.read(tables.facts)

    def get(self, key: str) -> Any:
        """Return a fact about the run, None if it is not known."""
        return self.facts().get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember a fact about the run."""
        self._db.write(lambda db: tables.remember(db, key, value))

    def append_points(self, points: Sequence[MetricPoint]) -> None:
        """Store the points of one drain."""
        pieces = [points[start : start + MAX_ROW_POINTS] for start in range(0, len(points), MAX_ROW_POINTS)]
        try:
            self._append("points", [(encode_points(piece), len(piece)) for piece in pieces])
        except sqlite3.Error:
            self._ledgers["points"].refuse("spool_failed", len(points))
            raise

    def append_traces(self, spans: bytes, count: int) -> None:
        """Store encoded spans."""
        self._append("traces", [(spans, count)])

    def append_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Store something else that the server must be told."""
        self._append("call", [(json.dumps([name, dict(arguments)]).encode(), 1)])

    def append_artifact(self, name: str, content: Mapping[str, str]) -> None:
        """Store what is to be done with an artifact, in place of what waits for the same name.

        Args:
            name: the artifact's.
            content: its path or its text; nothing removes it.
        """
        ending = json.dumps({"name": name})[1:].encode() + b"]"  # no text can end so: its quotes are escaped
        body = json.dumps(["artifact", {**content, "name": name}]).encode()

        def put(db: sqlite3.Connection) -> int:
            freed_bytes = tables.supersede(db, "artifact", ending, self._lent["artifact"])
            tables.append(db, "artifact", [(body, 1)])
            return freed_bytes

        self._follow_moves()
        self._bare.discard("artifact")
        self._grow(len(body) - self._db.write(put))

    def withdraw_calls(self, is_moot: Callable[[str, Mapping[str, Any]], bool]) -> None:
        """Let the calls go unsent that time has overtaken."""
        for row in self.heads("call", sys.maxsize, sys.maxsize):
            if is_moot(*json.loads(row.body)):
                self.ack(row)

    def head(self, kind: Kind) -> Row | None:
        """Return the oldest row of a stream."""
        return next(iter(self.heads(kind, 1, 0)), None)

    def heads(self, kind: Kind, max_units: int, max_bytes: int) -> list[Row]:
        """Return the oldest rows of a stream: as many as fit, in units and bytes, and at least one if there is any."""
        if self.is_bare(kind):
            return []
        rows = self._db.read(lambda db: tables.heads(db, kind, self._epoch, max_units, max_bytes))
        if not rows:
            self._bare.add(kind)
        elif kind in self._lent:
            self._lent[kind] = rows[-1].id
        return rows

    def ack(self, *rows: Row) -> None:
        """Let rows go: the server has them."""
        for row in self._remove(rows, None):
            if row.kind in self._ledgers:
                self._ledgers[row.kind].send(row.count)

    def bury(self, row: Row, reason: str) -> None:
        """Move a row to the dead: the server will never take it."""
        if self._remove([row], reason) and row.kind in self._ledgers:
            self._ledgers[row.kind].drop("refused", row.count)

    def points(self, limit: int, max_bytes: int) -> PointBatch:
        """Return the oldest points: at most `limit`, in a request of about `max_bytes`."""
        self._follow_moves()
        batch = self._db.read(lambda db: tables.take_points(db, self._epoch, limit, max_bytes))
        if batch.unreadable:
            self._db.write(lambda db: tables.delete(db, [row_id for row_id, _ in batch.unreadable]))
            self._ledgers["points"].drop("unreadable", sum(count for _, count in batch.unreadable))
        self._lent["points"] = batch.last_id
        return batch

    def ack_points(self, batch: PointBatch, dead: Sequence[tuple[MetricPoint, str]] = ()) -> None:
        """Let a batch go: the server has its points, but for the dead ones, which it refuses."""

        def settle(db: sqlite3.Connection) -> None:
            tables.settle(db, batch, dead)
            remember_steps(db, batch.points)

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

    def close(self, *, is_needed: bool = False) -> None:
        """Close; the file goes when nothing waits in it, and is put aside when all that is left is refused for good.

        Args:
            is_needed: whether the file must stay for what it tells of its run.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._db.return_to_disk()
        self._follow_moves()
        if self.path is None:
            for kind, count in self._measure()[1].items():
                self._ledgers[kind].drop("memory_lost", count)
        num_dead = self._db.read(tables.count_dead)
        aside = self._db.close("keep" if is_needed or not self.is_empty else "aside" if num_dead else "remove")
        if aside is not None:
            self._notices.info(f"{num_dead} entries that MLflow has refused for good are in {aside} (table dead)")

    def _append(self, kind: Kind, bodies: Sequence[tuple[bytes, int]]) -> None:
        self._bare.discard(kind)
        self._db.write(lambda db: tables.append(db, kind, bodies), is_single=len(bodies) == 1)
        if kind in self._ledgers:
            self._ledgers[kind].extract(sum(count for _, count in bodies))
        self._grow(sum(len(body) for body, _ in bodies))

    def _grow(self, more_bytes: int) -> None:
        self._bytes += more_bytes
        self._follow_moves()
        if self._bytes > self._capacity:
            self._drop_oldest()

    @property
    def _capacity(self) -> int:
        most = self._settings.spool_max_bytes
        return most if self.path is not None or self._file is None else min(most, MEMORY_BYTES)

    def _remove(self, rows: Sequence[Row], reason: str | None) -> list[Row]:
        """Delete rows, but for those that went another way meanwhile; returns those that were there."""
        self._follow_moves()
        own = [row for row in rows if row.epoch == self._epoch]
        gone = self._db.write(lambda db: [row for row in own if tables.remove(db, row, reason)]) if own else []
        self._bytes -= sum(len(row.body) for row in gone)
        return gone

    def _drop_oldest(self) -> None:
        """Make room, but for what is on its way just now, and count it."""
        excess_bytes = self._bytes - int(SPARED * self._capacity)
        for kind, gone in self._db.write(lambda db: tables.drop_oldest(db, excess_bytes, self._lent)).items():
            self._bytes -= gone.body_bytes
            if kind in self._ledgers:
                self._ledgers[kind].drop("spool_full", gone.units)
            else:
                self._artifacts_dropped += gone.rows
        lost = self._ledgers["points"].dropped("spool_full")
        self._notices.warn(
            "spool full",
            f"the spool is full ({self._capacity >> 20} MB): the oldest data is dropped, "
            f"{lost} points and {self._artifacts_dropped} artifacts so far",
        )

    def _follow_moves(self) -> None:
        """Count anew after the data has moved between disk and memory: a failing disk may have kept some of it."""
        if self._db.num_moves == self._epoch:
            return
        self._epoch = self._db.num_moves
        self._lent = dict.fromkeys(self._lent, 0)
        self._bare.clear()
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
        """Count the bytes of everything, and the units of what has an account."""
        sizes = self._db.read(tables.measure)
        units = {kind: sizes[kind].units if kind in sizes else 0 for kind in self._ledgers}
        return sum(size.body_bytes for size in sizes.values()), units
