"""The spool's sqlite connection, which survives its disk.

On disk while the disk is good. When it fails (full, read-only, damaged), everything that can be read moves to memory,
one warning says so, and every RETURN_S the way back is tried. A backlog too large for memory stays in the file: it
waits there, and is taken up again with the return to disk, or by a later `sync`.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.sinks.mlflow.connection import Durability, connect_disk, connect_memory, transaction
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.sinks.mlflow.tables import COLUMNS

__all__ = ["MEMORY_BYTES", "Database"]

T = TypeVar("T")
Fate = Literal["keep", "remove", "aside"]
"""What becomes of the file at the end: it still holds something to send, nothing, or only what nobody takes."""

MEMORY_BYTES: Final = 64 << 20
"""Most that may wait in memory."""

CHECKPOINT_S: Final = 1.0
"""Bounds what a power cut can take: without it, synchronous=NORMAL loses everything since the last one."""

RETURN_S: Final = 5.0
"""How often a spool that went to memory tries the disk again."""


class Database:
    """A connection on disk or in memory.

    Args:
        file: where on disk; None stays in memory.
        durability: how a power cut is met.
        notices: where trouble is said.
        clock: the time source.

    Attributes:
        num_moves: how often the data has moved between disk and memory; what was counted before may be wrong.
        has_left_behind: whether a backlog waits in the file while memory takes what comes.
    """

    def __init__(self, file: SpoolFile | None, durability: Durability, notices: Notices, clock: Clock) -> None:
        self.num_moves = 0
        self.has_left_behind = False
        self._file = file
        self._durability = durability
        self._notices = notices
        self._clock = clock
        self._db = connect_memory()
        self._is_on_disk = self._is_closed = self._is_dirty = False
        self._checkpoint_at = self._return_at = clock.monotonic()
        if file is not None and not self._go_to_disk(file):
            self._return_at += RETURN_S

    @property
    def path(self) -> Path | None:
        """The file; None while the data is in memory."""
        return self._file.path if self._file is not None and self._is_on_disk else None

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Ask the database."""
        try:
            return query(self._db)
        except sqlite3.DatabaseError as error:
            self._leave_disk(error)
            return query(self._db)

    def write(self, change: Callable[[sqlite3.Connection], T], *, is_single: bool = False) -> T:
        """Change the database, in one transaction.

        Args:
            change: makes the changes.
            is_single: whether they are one statement, which is a transaction by itself, and a cheaper one.
        """
        self._is_dirty = True
        try:
            with contextlib.nullcontext() if is_single else transaction(self._db):
                return change(self._db)
        except sqlite3.DatabaseError as error:
            self._leave_disk(error)
            with transaction(self._db):
                return change(self._db)

    def maintain(self) -> None:
        """Do what is due: a checkpoint, or a try to return to disk."""
        now = self._clock.monotonic()
        if self._is_closed or self._file is None:
            return
        if self._is_on_disk and self._is_dirty and now >= self._checkpoint_at:
            self._is_dirty = False
            self._checkpoint_at = now + CHECKPOINT_S
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        elif not self._is_on_disk and now >= self._return_at:
            self._return_at = now + RETURN_S
            self.return_to_disk()

    def return_to_disk(self) -> None:
        """Try the disk again, if there is one and the data is in memory."""
        if self._file is not None and not self._is_on_disk and self._go_to_disk(self._file):
            self._notices.info(f"the spool is on disk again: {self._file.path}")

    def close(self, fate: Fate) -> Path | None:
        """Close, and give the file up; twice is harmless. Returns where it is when it was put aside."""
        self._is_closed = True
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._file is None:
            return None
        aside = self._file.put_aside("refused") if fate == "aside" and self._is_on_disk else None
        self._file.release(remove=fate != "keep" and not self.has_left_behind)
        return aside

    def _leave_disk(self, error: sqlite3.DatabaseError) -> None:
        """Carry on in memory. What stays in the file may be sent again by a later `sync`: that is harmless."""
        if not self._is_on_disk or self._is_closed or self._file is None:
            raise error
        is_damaged = not isinstance(error, sqlite3.OperationalError)
        memory = connect_memory()
        self.has_left_behind = not is_damaged and _size(self._db) > MEMORY_BYTES
        with contextlib.suppress(sqlite3.Error):
            _copy(self._db, memory, ["meta"] if self.has_left_behind else list(COLUMNS))
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        where = self._file.put_aside("damaged") if is_damaged else self._file.path
        self._notices.once(
            "spool disk",
            f"the spool cannot be used on disk ({error}): {where}. Unsent data is kept in memory until it can; "
            "free some space, or set RLTELEMETRY_SPOOL_DIR.",
        )
        self._db, self._is_on_disk = memory, False
        self._return_at = self._clock.monotonic() + RETURN_S
        self.num_moves += 1

    def _go_to_disk(self, file: SpoolFile) -> bool:
        """Move everything from memory to the file; says whether that worked."""
        try:
            disk = self._connect(file)
        except (OSError, sqlite3.Error) as error:
            self._notices.once(
                "spool disk",
                f"the spool cannot be opened ({error}): {file.path}. Unsent data is kept in memory, and lost if this "
                "process dies; free some space, or set RLTELEMETRY_SPOOL_DIR.",
            )
            return False
        try:
            if self.num_moves or not _is_blank(self._db):
                self._fill(disk)
        except sqlite3.Error:
            disk.close()
            return False
        self._db.close()
        self._db, self._is_on_disk, self.has_left_behind = disk, True, False
        self.num_moves += 1
        return True

    def _connect(self, file: SpoolFile) -> sqlite3.Connection:
        try:
            return connect_disk(file, self._durability)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = file.put_aside("damaged")
            self._notices.once(f"spool {aside}", f"a spool cannot be read ({error}); it was put aside: {aside}")
            return connect_disk(file, self._durability)

    def _fill(self, disk: sqlite3.Connection) -> None:
        """Write what memory holds: behind a backlog that waits there, else in place of an old copy."""
        if not self.has_left_behind:
            _copy(self._db, disk, list(COLUMNS))
            return
        with transaction(disk):
            for table in ("rows", "dead"):
                columns = ", ".join(COLUMNS[table][1:])  # the ids are given anew
                marks = ",".join("?" * (len(COLUMNS[table]) - 1))
                rows = self._db.execute(f"SELECT {columns} FROM {table} ORDER BY id")
                disk.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
            disk.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._db.execute("SELECT * FROM meta"))


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, tables: list[str]) -> None:
    """Make `target` hold what `source` holds; of a damaged source, what can be read."""
    with transaction(target):
        for table in tables:
            target.execute(f"DELETE FROM {table}")
            marks = ",".join("?" * len(COLUMNS[table]))
            with contextlib.suppress(sqlite3.DatabaseError):
                for row in source.execute(f"SELECT {', '.join(COLUMNS[table])} FROM {table}"):
                    target.execute(f"INSERT INTO {table} VALUES ({marks})", row)


def _size(db: sqlite3.Connection) -> int:
    try:
        return int(db.execute("SELECT total(length(body)) FROM rows").fetchone()[0])
    except sqlite3.Error:
        return 0


def _is_blank(db: sqlite3.Connection) -> bool:
    return all(db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,) for table in COLUMNS)
