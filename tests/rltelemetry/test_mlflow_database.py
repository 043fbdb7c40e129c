"""The spool's database: what becomes of the data when its disk fails, fills, is foreign, or comes back."""

import errno
import sqlite3
from pathlib import Path

import pytest

from rltelemetry.notices import Notices
from rltelemetry.sinks.mlflow import database
from rltelemetry.sinks.mlflow.connection import Durability, connect_disk
from rltelemetry.sinks.mlflow.database import RETURN_S, Database
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.testing import FakeClock


class Bench:
    """A database with its surroundings."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.said: list[str] = []
        self.notices = Notices(lambda _level, message: self.said.append(message), self.clock)
        self.file = SpoolFile(directory / "a.spool")
        self.db = self.open()

    def open(self, heir_wait_s: float | None = None) -> Database:
        return Database(self.file, "normal", self.notices, self.clock, heir_wait_s=heir_wait_s)

    def add(self, body: bytes = b"x") -> None:
        self.db.write(lambda db: db.execute("INSERT INTO rows (kind, count, body) VALUES ('points', 1, ?)", (body,)))

    def count(self) -> int:
        count: int = self.db.read(lambda db: db.execute("SELECT count(*) FROM rows").fetchone()[0])
        return count

    def bodies(self) -> list[bytes]:
        return [body for (body,) in self.db.read(lambda db: db.execute("SELECT body FROM rows ORDER BY id").fetchall())]

    def pass_time(self) -> None:
        """Let the next try to return to disk come."""
        self.clock.advance(RETURN_S + 1)
        self.db.maintain()

    def fill_disk(self, room_pages: int = 0) -> None:
        """Let sqlite meet a full disk, as it says itself: after so many more pages."""
        self.db.read(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        pages = self.db.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        self.db.read(lambda db: db.execute(f"PRAGMA max_page_count = {pages + room_pages}").fetchall())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_written_is_there_for_the_next_owner(bench: Bench) -> None:
    bench.add(b"kept")
    bench.db.close("keep")
    bench.db = bench.open()
    assert bench.count() == 1
    assert bench.db.path == bench.file.path
    assert bench.said == []


def test_failed_change_leaves_nothing_behind(bench: Bench) -> None:
    def change(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO rows (kind, count, body) VALUES ('points', 1, 'x')")
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        bench.db.write(change)
    assert bench.count() == 0


def test_full_disk_sends_everything_to_memory_with_one_warning(bench: Bench) -> None:
    bench.add(b"before")
    bench.fill_disk()
    for _ in range(20):
        bench.add(b"x" * 4000)
    assert bench.count() == 21
    assert bench.db.path is None
    assert len(bench.said) == 1
    assert "is full" in bench.said[0]
    assert "RLTELEMETRY_SPOOL_DIR" in bench.said[0]


def test_disk_that_is_good_again_is_used_again(bench: Bench) -> None:
    bench.fill_disk()
    bench.add(b"x" * 9000)
    assert bench.db.path is None
    bench.clock.advance(RETURN_S + 1)
    bench.db.maintain()
    assert bench.db.path == bench.file.path
    assert bench.said[-1] == f"the spool is on disk again: {bench.file.path}"
    bench.db.close("keep")
    bench.db = bench.open()
    assert bench.count() == 1


def test_way_back_is_tried_at_most_once_a_period(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def broken(*_arguments: object) -> sqlite3.Connection:
        tries.append(1)
        raise sqlite3.OperationalError("disk I/O error")

    bench.fill_disk()
    bench.add(b"x" * 9000)
    monkeypatch.setattr(database, "connect_disk", broken)
    for _ in range(10):
        bench.clock.advance(RETURN_S / 5)
        bench.db.maintain()
    assert len(tries) == 2
    assert bench.count() == 1


def test_backlog_that_memory_cannot_hold_stays_in_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MEMORY_BYTES", 10_000)
    for _ in range(4):
        bench.add(b"b" * 4000)
    bench.db.write(lambda db: db.execute("INSERT INTO meta VALUES ('run_id', '1')"))
    bench.fill_disk()
    for _ in range(4):
        bench.add(b"n" * 4000)
    assert bench.db.has_left_behind
    assert bench.db.read(lambda db: db.execute("SELECT value FROM meta").fetchall()) == [("1",)]
    in_memory = bench.count()
    assert in_memory < 8
    bench.clock.advance(RETURN_S + 1)
    bench.db.maintain()
    assert not bench.db.has_left_behind
    bodies = bench.db.read(lambda db: db.execute("SELECT body FROM rows ORDER BY id").fetchall())
    assert [body[0][:1] for body in bodies] == [b"b"] * 4 + [b"n"] * 4


def test_backlog_that_stays_keeps_the_file_from_being_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MEMORY_BYTES", 10)
    bench.add(b"b" * 4000)
    bench.fill_disk()
    bench.add(b"n" * 4000)
    bench.db.close("remove")
    assert bench.file.path.exists()


class Disk:
    """Stands for `connect_disk`: fails so often, then opens."""

    def __init__(self, error: Exception, num_failures: int = 1) -> None:
        self.error = error
        self.num_failures = num_failures

    def __call__(self, file: SpoolFile, durability: Durability) -> sqlite3.Connection:
        file.acquire()
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise self.error
        return connect_disk(file, durability)


NO_DESCRIPTORS = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def left(bench: Bench) -> Bench:
    """A file with a row that nobody has open."""
    bench.add(b"left")
    bench.db.close("keep")
    return bench


def test_heir_that_cannot_open_a_file_gives_it_up_as_it_is(left: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left.file.path.read_bytes()
    monkeypatch.setattr(database, "connect_disk", Disk(NO_DESCRIPTORS))
    left.db = left.open(heir_wait_s=0.0)
    assert not left.file.is_owned()
    left.add(b"a word of the heir's")
    left.pass_time()
    left.db.return_to_disk()
    assert left.db.path is None
    left.db.close("remove")
    assert left.file.path.read_bytes() == before
    assert left.said == [f"the spool cannot be opened ({NO_DESCRIPTORS}): {left.file.path}. It is left as it is."]


def test_heir_waits_for_somebody_who_reads(left: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    monkeypatch.setattr(database, "connect_disk", Disk(busy, num_failures=3))
    left.db = left.open(heir_wait_s=1.0)
    assert left.bodies() == [b"left"]


def test_file_that_could_not_be_read_at_first_keeps_its_rows(left: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "connect_disk", Disk(NO_DESCRIPTORS))
    left.db = left.open()
    left.add(b"new")
    assert left.db.has_left_behind
    left.pass_time()
    assert left.bodies() == [b"left", b"new"]


def test_file_that_never_could_be_read_is_not_removed(left: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "connect_disk", Disk(NO_DESCRIPTORS, num_failures=9))
    left.db = left.open()
    left.db.close("remove")
    assert left.file.path.exists()


def test_file_that_cannot_be_read_any_more_keeps_its_rows(bench: Bench) -> None:
    bench.add(b"before")
    bench.db.read(lambda db: db.set_progress_handler(lambda: 1, 1))  # every statement fails from here on
    bench.add(b"after")
    assert bench.db.path is None
    assert bench.bodies() == [b"after"]
    assert bench.db.has_left_behind
    bench.pass_time()
    assert bench.bodies() == [b"before", b"after"]


@pytest.mark.parametrize("content", [b"no database " * 1000, b""], ids=["foreign", "empty"])
def test_file_that_is_no_spool_is_put_aside_and_a_new_one_begun(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.spool").write_bytes(content)
    bench = Bench(tmp_path)
    bench.add()
    assert bench.db.path is not None
    aside = list(tmp_path.glob("*.damaged-*"))
    assert [path.read_bytes() for path in aside] == ([content] if content else [])
    assert len(bench.said) == (1 if content else 0)


def test_file_that_is_damaged_while_it_is_used_is_put_aside_and_what_can_be_read_is_kept(bench: Bench) -> None:
    for index in range(200):
        bench.add(bytes([index]) * 2000)
    bench.db.read(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    data = bytearray(bench.file.path.read_bytes())
    data[:100] = b"\xff" * 100
    bench.file.path.write_bytes(bytes(data))
    bench.db.read(lambda db: db.execute("PRAGMA cache_size = 0").fetchall())
    bench.add(b"after")
    assert bench.db.path is None
    assert len(list(bench.file.path.parent.glob("*.damaged-*"))) >= 1
    assert "kept in memory" in bench.said[0]
    bench.clock.advance(RETURN_S + 1)
    bench.db.maintain()
    assert bench.db.path == bench.file.path
    assert bench.count() >= 1


def test_directory_that_cannot_be_made_leaves_memory_and_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    bench = Bench(tmp_path / "file" / "below")
    bench.add()
    assert bench.count() == 1
    assert bench.db.path is None
    assert len(bench.said) == 1
    bench.db.maintain()
    bench.clock.advance(RETURN_S + 1)
    bench.db.maintain()
    assert len(bench.said) == 1


def test_memory_reaches_the_disk_at_the_end_if_it_can(bench: Bench) -> None:
    bench.fill_disk()
    bench.add(b"x" * 9000)
    bench.db.return_to_disk()
    bench.db.close("keep")
    bench.db = bench.open()
    assert bench.count() == 1


def test_checkpoint_bounds_what_a_power_cut_takes(bench: Bench) -> None:
    wal = bench.file.path.with_name(f"{bench.file.path.name}-wal")
    for _ in range(3):
        bench.clock.advance(1.0)
        bench.add(b"x" * 1000)
        bench.db.maintain()
        # What a power cut leaves at worst is the database without its log.
        copy = bench.file.path.with_name("copy")
        copy.write_bytes(bench.file.path.read_bytes())
        survived = sqlite3.connect(copy)
        assert survived.execute("SELECT count(*) FROM rows").fetchone()[0] == bench.count()
        survived.close()
    assert wal.exists()


def test_closing_twice_is_harmless(bench: Bench) -> None:
    bench.db.close("remove")
    bench.db.close("remove")
    bench.db.maintain()
    assert not bench.file.path.exists()


def test_without_a_file_all_stays_in_memory(tmp_path: Path) -> None:
    clock = FakeClock()
    db = Database(None, "normal", Notices(lambda *_: None, clock), clock)
    db.write(lambda connection: connection.execute("INSERT INTO meta VALUES ('a', '1')"))
    db.maintain()
    db.return_to_disk()
    assert db.path is None
    assert db.close("keep") is None


def test_somebody_elses_file_is_left_to_them(tmp_path: Path) -> None:
    other = connect_disk(SpoolFile(tmp_path / "a.spool"), "normal")
    bench = Bench(tmp_path)
    bench.add()
    assert bench.db.path is None
    assert other.execute("SELECT count(*) FROM rows").fetchone() == (0,)
    assert "in use" in bench.said[0]
