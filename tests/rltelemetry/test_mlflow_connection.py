"""Opening a spool's database: its mode, its tables, and what is refused."""

import sqlite3
from pathlib import Path

import pytest

from rltelemetry.sinks.mlflow.connection import connect_disk, connect_memory, is_network_file_system
from rltelemetry.sinks.mlflow.storage import SpoolFile

NOW_NS = 1_700_000_000_000_000_000


def new(directory: Path) -> SpoolFile:
    return SpoolFile.new(directory, NOW_NS)


@pytest.mark.parametrize("which", ["path", "lock_path"])
def test_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path, which: str) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    file = SpoolFile(tmp_path / "a.spool")
    getattr(file, which).symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        connect_disk(file, "normal")
    assert target.read_text() == "keep"


def test_disk_is_in_wal_mode_with_the_durability_that_was_asked_for(tmp_path: Path) -> None:
    normal, full = connect_disk(new(tmp_path), "normal"), connect_disk(new(tmp_path), "full")
    assert normal.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert normal.execute("PRAGMA synchronous").fetchone() == (1,)
    assert full.execute("PRAGMA synchronous").fetchone() == (2,)


def test_network_file_system_gets_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltelemetry.sinks.mlflow.connection.is_network_file_system", lambda _path: True)
    assert connect_disk(new(tmp_path), "normal").execute("PRAGMA journal_mode").fetchone() == ("truncate",)


@pytest.mark.parametrize(
    ("path", "expected"), [("/net/me/x", True), ("/net/me/local/x", False), ("/disk/x", False), ("/my disk/x", True)]
)
def test_longest_mount_point_decides(path: str, expected: bool) -> None:
    mounts = (
        "/dev/sda / ext4 rw 0 0\nserver:/net /net nfs4 rw 0 0\n/dev/sdb /net/me/local ext4 rw 0 0\n"
        "//nas/share /my\\040disk cifs rw 0 0\nbroken line\n"
    )
    assert is_network_file_system(Path(path), mounts) is expected


@pytest.mark.parametrize(
    "content", [b"not a database, although long enough to be taken for one" * 20, b"SQLite format 3"]
)
def test_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = new(tmp_path)
    file.path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError):
        connect_disk(file, "normal")
    assert file.path.read_bytes() == content


def test_spool_of_another_version_is_refused(tmp_path: Path) -> None:
    file = new(tmp_path)
    db = connect_disk(file, "normal")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="schema version 99"):
        connect_disk(file, "normal")


def test_memory_has_the_same_tables(tmp_path: Path) -> None:
    query = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert connect_memory().execute(query).fetchall() == connect_disk(new(tmp_path), "normal").execute(query).fetchall()
