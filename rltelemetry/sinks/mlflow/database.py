"""The spool's sqlite connection, which survives its disk.

On disk while the disk is good. When it fails (full, read-only, damaged), everything that can be read moves to memory,
one warning says so, and every RETURN_S the way back is tried. What memory does not hold, be it too large or not to be
read, stays in the file: it waits there, and is taken up again with the return to disk, or by a later `sync`. Only what
has been read is ever replaced or removed.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

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
        heir_wait_s: set for a file that another process has left: how long to wait for somebody who has it open. If it
            cannot be opened, it is given up as it is.

    Attributes:
        num_moves: how often the data has moved between disk and memory; what was counted before may be wrong.
        has_left_behind: whether a backlog waits in the file while memory takes what comes.
    """

    def __init__(
        self,
        file: SpoolFile | None,
        durability: Durability,
        notices: Notices,
        clock: Clock,
        *,
        heir_wait_s: float | None = None,
    ) -> None:
        self.num_moves = 0
        self.has_left_behind = file is not None and file.has_content
        self._file = file
        self._durability = durability
        self._notices = notices
        self._clock = clock
        self._db = connect_memory()
        self._is_on_disk = self._is_closed = self._is_dirty = False
        self._is_copy = False  # whether memory holds all that is in the file
        self._checkpoint_at = self._return_at = clock.monotonic()
        if heir_wait_s is not None:
            self._inherit(heir_wait_s)
        elif file is not None and not self._go_to_disk(file):
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

    def _inherit(self, wait_s: float) -> None:
        """Open what another process has left, or give it up."""
        if self._file is not None and not self._go_to_disk(self._file, wait_s):
            self._file.release(remove=False)
            self._file = None

    def _leave_disk(self, error: sqlite3.DatabaseError) -> None:
        """Carry on in memory. What stays in the file may be sent again by a later `sync`: that is harmless."""
        if not self._is_on_disk or self._is_closed or self._file is None:
            raise error
        is_damaged = not isinstance(error, sqlite3.OperationalError)
        memory = connect_memory()
        self._is_copy = not is_damaged and _take_along(self._db, memory)
        self.has_left_behind = not is_damaged and not self._is_copy
        if is_damaged:
            _salvage(self._db, memory)
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

    def _go_to_disk(self, file: SpoolFile, heir_wait_s: float | None = None) -> bool:
        """Move everything from memory to the file; says whether that worked."""
        try:
            disk = self._connect(file, heir_wait_s or 0.0)
        except (OSError, sqlite3.Error) as error:
            self._say_closed(file, error, is_inherited=heir_wait_s is not None)
            return False
        try:
            self._fill(disk)
        except sqlite3.Error:
            disk.close()
            return False
        self._db.close()
        self._db, self._is_on_disk, self.has_left_behind = disk, True, False
        self.num_moves += 1
        return True

    def _say_closed(self, file: SpoolFile, error: Exception, *, is_inherited: bool) -> None:
        what = f"the spool cannot be opened ({error}): {file.path}."
        if is_inherited:
            self._notices.once(f"spool {file.path}", f"{what} It is left as it is.")
        else:
            self._notices.once(
                "spool disk",
                f"{what} Unsent data is kept in memory, and lost if this process dies; free some space, or set "
                "RLTELEMETRY_SPOOL_DIR.",
            )

    def _connect(self, file: SpoolFile, wait_s: float) -> sqlite3.Connection:
        try:
            return self._connect_in_time(file, wait_s)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = file.put_aside("damaged")
            self._notices.once(f"spool {aside}", f"a spool cannot be read ({error}); it was put aside: {aside}")
            return connect_disk(file, self._durability)

    def _connect_in_time(self, file: SpoolFile, wait_s: float) -> sqlite3.Connection:
        deadline = self._clock.monotonic() + wait_s
        while True:
            try:
                return connect_disk(file, self._durability)  # which waits for a moment itself
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or self._clock.monotonic() >= deadline:
                    raise

    def _fill(self, disk: sqlite3.Connection) -> None:
        """Write what memory holds: in place of what it is a copy of, else behind what waits there."""
        if self._is_copy:
            _copy(self._db, disk, list(COLUMNS))
            return
        with transaction(disk):
            for table in ("rows", "dead"):
                columns = ", ".join(COLUMNS[table][1:])  # the ids are given anew
                marks = ",".join("?" * (len(COLUMNS[table]) - 1))
                rows = self._db.execute(f"SELECT {columns} FROM {table} ORDER BY id")
                disk.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
            disk.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._db.execute("SELECT * FROM meta"))


def _take_along(disk: sqlite3.Connection, memory: sqlite3.Connection) -> bool:
    """Copy everything to memory, or the facts alone; says whether it is everything."""
    with contextlib.suppress(sqlite3.Error):
        if disk.execute("SELECT total(length(body)) FROM rows").fetchone()[0] <= MEMORY_BYTES:
            _copy(disk, memory, list(COLUMNS))
            return True
    with contextlib.suppress(sqlite3.Error):
        _copy(disk, memory, ["meta"])
    return False


def _salvage(disk: sqlite3.Connection, memory: sqlite3.Connection) -> None:
    """Copy to memory what can be read of a damaged file."""
    for table in COLUMNS:
        with contextlib.suppress(sqlite3.DatabaseError):
            for row in _rows(disk, table):
                _insert(memory, table, [row])


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, tables: list[str]) -> None:
    """Make `target` hold what `source` holds, or leave it as it is."""
    with transaction(target):
        for table in tables:
            target.execute(f"DELETE FROM {table}")
            _insert(target, table, _rows(source, table))


def _rows(db: sqlite3.Connection, table: str) -> Iterable[tuple[Any, ...]]:
    return db.execute(f"SELECT {', '.join(COLUMNS[table])} FROM {table}")


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(COLUMNS[table]))})", rows)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
