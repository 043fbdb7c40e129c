"""The tables of a spool, and every statement on them: what puts rows in, finds them and takes them out.

Each function asks or changes the database that it is given and nothing else: the spool keeps the accounts.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Final

from rltelemetry.sinks.mlflow.rows import Kind, PointBatch, Row, Size, decode_points
from rltelemetry.types import MetricPoint

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "append",
    "count_dead",
    "delete",
    "drop_oldest",
    "facts",
    "heads",
    "measure",
    "points_after",
    "remember",
    "remove",
    "settle",
    "supersede",
    "take_points",
]

SCHEMA_VERSION: Final = 1
SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, count INTEGER NOT NULL, body BLOB NOT NULL, taken INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS rows_by_kind ON rows (kind, id) WHERE kind != 'points';
CREATE TABLE IF NOT EXISTS dead (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, reason TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""

COLUMNS: Final = {
    "meta": ("key", "value"),
    "rows": ("id", "kind", "count", "body", "taken"),
    "dead": ("id", "body", "reason"),
}
"""The columns of each table, in their order; an id gives a place in the stream and nothing else."""

WIRE_BYTES: Final = 56
"""What a point takes on the wire beside its stored form: the names of its fields."""

SMALL_ARTIFACT_BYTES: Final = 4096
"""Artifacts of this size, most of them names of files, are the last to go: all of them make room for few points."""


def append(db: sqlite3.Connection, kind: Kind, bodies: Iterable[tuple[bytes, int]]) -> None:
    """Put rows at the end of a stream; each is a body and how many units it holds."""
    rows = [(kind, count, body) for body, count in bodies]
    db.executemany("INSERT INTO rows (kind, count, body) VALUES (?, ?, ?)", rows)


def heads(db: sqlite3.Connection, kind: Kind, epoch: int, max_units: int, max_bytes: int) -> list[Row]:
    """Return the oldest rows of a stream other than points: as many as hold `max_units` and `max_bytes`, or one."""
    rows: list[Row] = []
    query = "SELECT id, body, count FROM rows WHERE kind = ? AND kind != 'points' ORDER BY id"  # as the index has it
    with closing(db.execute(query, (kind,))) as found:
        for row_id, body, count in found:
            max_units -= count
            max_bytes -= len(body)
            if rows and (max_units < 0 or max_bytes < 0):
                break
            rows.append(Row(row_id, kind, body, count, epoch))
            if max_units <= 0:
                break
    return rows


def remove(db: sqlite3.Connection, row: Row, reason: str | None) -> bool:
    """Delete a row, with a reason: move it to the dead; False if it has gone another way."""
    is_there = db.execute("DELETE FROM rows WHERE id = ?", (row.id,)).rowcount > 0
    if is_there and reason is not None:
        db.execute("INSERT INTO dead (body, reason) VALUES (?, ?)", (row.body, reason))
    return is_there


def delete(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Delete rows."""
    db.executemany("DELETE FROM rows WHERE id = ?", [(row_id,) for row_id in ids])


def take_points(db: sqlite3.Connection, epoch: int, limit: int, max_bytes: int) -> PointBatch:
    """Return the oldest points: at most `limit`, in a request of about `max_bytes`."""
    batch = PointBatch(epoch)
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
                batch.points += decode_points(body, taken, taken + wanted)
            except ValueError:
                batch.unreadable.append((row_id, count - taken))
                continue
            room_bytes -= wanted * point_bytes
            if taken + wanted < count:
                batch.rest = (row_id, taken + wanted)
                break
            batch.spent.append(row_id)
            batch.freed_bytes += len(body)
        else:
            batch.is_all = True
    return batch


def points_after(db: sqlite3.Connection, row_id: int) -> tuple[list[MetricPoint], int]:
    """Return the points of the rows behind `row_id`, sent or not, and the id of the last of these rows."""
    query = "SELECT id, body FROM rows WHERE kind = 'points' AND id > ? ORDER BY id"
    found = db.execute(query, (row_id,)).fetchall()
    points: list[MetricPoint] = []
    for _, body in found:
        with suppress(ValueError):  # whoever sends it counts it
            points += decode_points(body)
    return points, found[-1][0] if found else row_id


def settle(db: sqlite3.Connection, batch: PointBatch, dead: Sequence[tuple[MetricPoint, str]]) -> None:
    """Let the points of a batch go; those that are refused go to the dead, each with the reason."""
    delete(db, batch.spent)
    if batch.rest is not None:
        db.execute("UPDATE rows SET taken = ? WHERE id = ?", (batch.rest[1], batch.rest[0]))
    buried = [(json.dumps(point).encode(), reason) for point, reason in dead]
    db.executemany("INSERT INTO dead (body, reason) VALUES (?, ?)", buried)


def supersede(db: sqlite3.Connection, kind: Kind, ending: bytes, last_spared: int) -> int:
    """Delete the rows of a kind that end alike, but for those up to `last_spared`; says how many bytes went."""
    query = "SELECT id, length(body) FROM rows WHERE kind = ? AND kind != 'points' AND id > ? AND substr(body, -?) = ?"
    found = db.execute(query, (kind, last_spared, len(ending), ending)).fetchall()
    delete(db, [row_id for row_id, _ in found])
    return sum(size for _, size in found)


def drop_oldest(db: sqlite3.Connection, excess_bytes: int, spared: Mapping[str, int]) -> dict[str, Size]:
    """Delete whole rows, and say what went, by kind: large artifacts first, then points and traces, then small
    artifacts, which make little room; the oldest of each first. Calls stay.

    Args:
        db: the database.
        excess_bytes: how much has to go.
        spared: the last row of each kind that stays, with all before it.
    """
    query = (
        "SELECT id, kind, count - taken, length(body) FROM rows WHERE kind = 'points' AND id > :points "
        "OR kind = 'traces' AND id > :traces OR kind = 'artifact' AND id > :artifact "
        f"ORDER BY CASE WHEN kind != 'artifact' THEN 1 WHEN length(body) > {SMALL_ARTIFACT_BYTES} THEN 0 ELSE 2 END, id"
    )
    ids: list[int] = []
    gone: dict[str, Size] = {}
    with closing(db.execute(query, spared)) as rows:
        for row_id, kind, units, size in rows:
            if excess_bytes <= 0:
                break
            excess_bytes -= size
            ids.append(row_id)
            before = gone.get(kind, Size())
            gone[kind] = Size(before.rows + 1, before.units + units, before.body_bytes + size)
    delete(db, ids)
    return gone


def measure(db: sqlite3.Connection) -> dict[str, Size]:
    """Count what there is, by kind."""
    query = "SELECT kind, count(*), total(count - taken), total(length(body)) FROM rows GROUP BY kind"
    return {kind: Size(rows, int(units), int(size)) for kind, rows, units, size in db.execute(query).fetchall()}


def count_dead(db: sqlite3.Connection) -> int:
    """Count the entries that the server has refused for good."""
    return int(db.execute("SELECT count(*) FROM dead").fetchone()[0])


def facts(db: sqlite3.Connection) -> dict[str, Any]:
    """Return what has been remembered about the run; what cannot be read is not known."""
    known = {}
    for key, value in db.execute("SELECT key, value FROM meta").fetchall():
        with suppress(ValueError):
            known[key] = json.loads(value)
    return known


def remember(db: sqlite3.Connection, key: str, value: Any) -> None:
    """Remember a fact about the run."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
