"""Opening a spool's database: whose it may be, what it must look like, and how it meets a power cut."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.sinks.mlflow.tables import SCHEMA, SCHEMA_VERSION

__all__ = ["Durability", "connect_disk", "connect_memory", "is_network_file_system", "transaction"]

Durability = Literal["normal", "full"]

BUSY_S: Final = 0.1

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "beegfs", "gpfs", "ceph", "fuse.sshfs", "9p"}
)
"""WAL needs memory that all users of the file share; these have none."""


def connect_disk(file: SpoolFile, durability: Durability) -> sqlite3.Connection:
    """Open, or make, the database of a file that becomes ours; each statement outside `transaction` is one of its own.

    Raises:
        OSError: the directory cannot be written, or somebody else owns the file.
        sqlite3.OperationalError: the disk does not let it be used.
        sqlite3.DatabaseError: it is damaged, no spool, or of another version.
    """
    if not file.acquire():
        raise BlockingIOError(f"{file.path} is in use by another process")
    os.close(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(file.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (num_tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version != SCHEMA_VERSION and (version or num_tables):
            raise sqlite3.DatabaseError(f"schema version {version} instead of {SCHEMA_VERSION}")
        mode = "TRUNCATE" if is_network_file_system(file.path) else "WAL"
        db.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        db.execute(f"PRAGMA synchronous = {durability.upper()}")
        db.executescript(SCHEMA)
        db.execute("SELECT count(*) FROM rows").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def connect_memory() -> sqlite3.Connection:
    """Open an empty database in memory, likewise."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.executescript(SCHEMA)
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Make all changes of a block at once, or none of them."""
    db.execute("BEGIN")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some failures have ended it already
            db.execute("ROLLBACK")
        raise


def is_network_file_system(path: Path, mounts: str | None = None) -> bool:
    """Say whether a path lies on a network file system, by the kernel's table of mounts."""
    try:
        table = Path("/proc/mounts").read_text() if mounts is None else mounts
        path = path.resolve()
    except OSError:
        return False
    best, kind = "", ""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if Path(point) in (path, *path.parents) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind in NETWORK_FILE_SYSTEMS
