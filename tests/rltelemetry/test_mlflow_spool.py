"""The spool: streams first in, first out; what leaves leaves once; and the ledger is right at every moment."""

import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import database
from rltelemetry.sinks.mlflow.ledger import Ledger
from rltelemetry.sinks.mlflow.reader import SpoolReader
from rltelemetry.sinks.mlflow.rows import MAX_ROW_POINTS
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.testing import FakeClock
from rltelemetry.types import MetricPoint

ANY = 10**9


def points(count: int, start: int = 0, key: str = "trainer/loss") -> list[MetricPoint]:
    return [MetricPoint(key, index / 2, index, 1_700_000_000_000 + index) for index in range(start, start + count)]


class Bench:
    def __init__(self, directory: Path | None = None, name: str = "a.spool", **fields: object) -> None:
        self.clock = FakeClock()
        self.said: list[str] = []
        self.points, self.spans = Ledger(), Ledger()
        notices = Notices(lambda _level, message: self.said.append(message), self.clock)
        self.file = SpoolFile(directory / name) if directory else None
        self.spool = Spool(self.file, Settings(**fields), notices, self.clock, self.points, self.spans)  # type: ignore[arg-type]

    def add(self, some: list[MetricPoint]) -> None:
        self.spool.append_points(some)

    def fail_disk(self) -> None:
        db = self.spool._db._db
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def check(self) -> None:
        """extracted = sent + kept + dropped, and kept is what the table holds, as far as it can be read."""
        counts = self.points.counts()
        assert counts.extracted == counts.sent + counts.kept + sum(counts.dropped.values())
        if not self.spool._db.has_left_behind:
            query = "SELECT total(count - taken) FROM rows WHERE kind = 'points'"
            assert self.spool._db.read(lambda db: db.execute(query).fetchone()) == (counts.kept,)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_points_leave_in_their_order_and_unchanged(bench: Bench) -> None:
    everything = [*points(3), MetricPoint("a/b", float("nan"), -7, 0), MetricPoint("é/日本", 1e-300, 2**62, 5)]
    for point in everything:
        bench.add([point])
    taken = bench.spool.points(ANY, ANY).points
    assert [repr(point) for point in taken] == [repr(point) for point in everything]
    assert all(type(point.step) is int and type(point.timestamp_ms) is int for point in taken)


def test_reading_takes_nothing_away(bench: Bench) -> None:
    bench.add(points(5))
    assert bench.spool.points(3, ANY).points == bench.spool.points(3, ANY).points == points(3)
    assert bench.spool.points_kept == 5


def test_row_is_taken_apart_and_goes_on_where_it_was_left(bench: Bench) -> None:
    bench.add(points(10))
    bench.add(points(5, start=10))
    sizes, steps = (4, 4, 4, 4), []
    for size in sizes:
        batch = bench.spool.points(size, ANY)
        steps += [point.step for point in batch.points]
        bench.spool.ack_points(batch)
        bench.check()
    assert steps == list(range(15))
    assert bench.spool.is_empty
    assert bench.points.counts().sent == 15


def test_where_a_row_was_left_is_known_to_the_next_owner(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.add(points(10))
    first.spool.ack_points(first.spool.points(4, ANY))
    first.spool.close()
    second = Bench(tmp_path)
    assert second.points.counts().extracted == 6
    assert [point.step for point in second.spool.points(ANY, ANY).points] == list(range(4, 10))
    second.check()


def test_long_drain_becomes_rows_of_a_bounded_size(bench: Bench) -> None:
    bench.add(points(2 * MAX_ROW_POINTS + 1))
    assert bench.spool.waiting() == {"points": 3}
    assert bench.spool.points(ANY, ANY).points == points(2 * MAX_ROW_POINTS + 1)


@pytest.mark.parametrize("key", ["k", "k" * 250, "日" * 250], ids=["short", "long", "wide"])
def test_request_stays_within_its_bytes(bench: Bench, key: str) -> None:
    bench.add(points(1000, key=key))
    batch = bench.spool.points(1000, 100_000)
    wire = to_json({"run_id": "r" * 32, "metrics": [point._asdict() for point in batch.points]})
    assert len(wire) < 100_000 + 5000
    assert len(batch.points) == 1000 or len(wire) > 80_000


def test_one_point_leaves_however_little_room_there_is(bench: Bench) -> None:
    bench.add(points(3))
    assert bench.spool.points(ANY, 1).points == points(1)


def test_dead_points_are_counted_and_put_aside_at_the_end(bench: Bench) -> None:
    bench.add(points(3))
    batch = bench.spool.points(ANY, ANY)
    bench.spool.ack_points(batch, [(batch.points[1], "bad key")])
    counts = bench.points.counts()
    assert (counts.sent, counts.kept, counts.dropped) == (2, 0, {"poison": 1})
    bench.spool.close()
    assert bench.file is not None
    assert SpoolFile.all_in(bench.file.path.parent) == []
    (aside,) = bench.file.path.parent.iterdir()
    assert ".refused-" in aside.name
    assert str(aside) in bench.said[-1]


def test_streams_do_not_mix(bench: Bench) -> None:
    bench.add(points(1))
    bench.spool.append_traces(b"spans", 7)
    bench.spool.append_call("tags", {"a": "b"})
    bench.spool.append_artifact("x", {"path": "/x"})
    for kind, body in (
        ("traces", b"spans"),
        ("call", b'["tags", {"a": "b"}]'),
        ("artifact", b'["artifact", {"path": "/x", "name": "x"}]'),
    ):
        row = bench.spool.head(kind)  # type: ignore[arg-type]
        assert row is not None
        assert row.body == body
        bench.spool.ack(row)
        assert bench.spool.head(kind) is None  # type: ignore[arg-type]
    assert bench.spool.waiting() == {"points": 1}
    assert bench.spans.counts().sent == 7


def test_row_that_is_acknowledged_twice_counts_once(bench: Bench) -> None:
    bench.spool.append_traces(b"spans", 7)
    row = bench.spool.head("traces")
    assert row is not None
    bench.spool.ack(row)
    bench.spool.ack(row)
    bench.spool.bury(row, "late")
    assert (bench.spans.counts().sent, bench.spans.counts().kept, bench.spans.counts().dropped) == (7, 0, {})
    bench.spool.close()
    assert bench.file is not None
    assert list(bench.file.path.parent.iterdir()) == [], "nothing of it is dead"


def test_buried_row_is_counted(bench: Bench) -> None:
    bench.spool.append_traces(b"spans", 7)
    row = bench.spool.head("traces")
    assert row is not None
    bench.spool.bury(row, "no such route")
    assert bench.spans.counts().dropped == {"refused": 7}
    assert bench.spool.is_empty


def test_facts_are_kept(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.spool.put("plan", {"a": [1, None]})
    first.spool.put("plan", {"a": [2, None]})
    first.add(points(1))
    first.spool.close()
    second = Bench(tmp_path)
    assert second.spool.get("plan") == {"a": [2, None]}
    assert second.spool.get("nothing") is None


def test_empty_spool_leaves_no_file(bench: Bench) -> None:
    bench.add(points(1))
    bench.spool.ack_points(bench.spool.points(ANY, ANY))
    bench.spool.close()
    bench.spool.close()
    assert bench.file is not None
    assert list(bench.file.path.parent.iterdir()) == []


def test_full_spool_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spool_max_bytes=2**20)
    for start in range(0, 100_000, 1000):
        bench.add(points(1000, start))
        bench.check()
    counts = bench.points.counts()
    assert counts.dropped["spool_full"] > 0
    first, *_, last = bench.spool.points(ANY, ANY).points
    assert (first.step, last.step) == (counts.dropped["spool_full"], 99_999)
    assert bench.spool._bytes < 2**20
    assert "the oldest data is dropped" in bench.said[0]
    assert len(bench.said) == 1


def test_full_spool_keeps_calls(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spool_max_bytes=2**20)
    bench.spool.append_call("status", {"status": "FINISHED"})
    for start in range(0, 50_000, 1000):
        bench.add(points(1000, start))
    assert bench.spool.head("call") is not None


def artifacts(bench: Bench) -> list[Any]:
    rows = bench.spool._db.read(lambda db: db.execute("SELECT body FROM rows WHERE kind = 'artifact'").fetchall())
    return [json.loads(body)[1] for (body,) in rows]


def test_later_artifact_of_a_name_takes_the_place_of_those_that_wait(bench: Bench) -> None:
    for text in ("1", '{"name": "a"}]', "3"):
        for name in ("a", "b/a", 'a"}]', "日本"):
            bench.spool.append_artifact(name, {"text": text})
    bench.spool.append_artifact("b/a", {})
    assert artifacts(bench) == [
        {"text": "3", "name": "a"}, {"text": "3", "name": 'a"}]'}, {"text": "3", "name": "日本"}, {"name": "b/a"}
    ]  # fmt: skip
    assert bench.spool._bytes == bench.spool._measure()[0]


def test_artifact_on_its_way_is_not_replaced(bench: Bench) -> None:
    bench.spool.append_artifact("a", {"text": "1"})
    row = bench.spool.head("artifact")
    for text in ("2", "3"):
        bench.spool.append_artifact("a", {"text": text})
    assert [artifact["text"] for artifact in artifacts(bench)] == ["1", "3"]
    assert row is not None
    bench.spool.ack(row)
    assert [artifact["text"] for artifact in artifacts(bench)] == ["3"]


@pytest.mark.parametrize("is_one_name", [True, False], ids=["versions of one", "different ones"])
def test_points_survive_large_texts(tmp_path: Path, is_one_name: bool) -> None:
    bench = Bench(tmp_path, spool_max_bytes=4 << 20)
    bench.spool.append_artifact("checkpoint", {"path": "/x"})
    bench.add(points(100))
    for number in range(5):
        bench.spool.append_artifact("curve" if is_one_name else f"curve {number}", {"text": "x" * 960_000})
    bench.add(points(100, start=100))
    assert bench.spool.points(ANY, ANY).points == points(200)
    names = [artifact["name"] for artifact in artifacts(bench)]
    assert names == ["checkpoint", "curve"] if is_one_name else ["checkpoint", "curve 2", "curve 3", "curve 4"]
    assert bool(bench.said) is not is_one_name
    assert is_one_name or "0 points and 2 artifacts so far" in bench.said[0]
    bench.check()


def test_full_spool_spares_what_is_on_its_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spool_max_bytes=2**20)
    bench.add(points(1000))
    batch = bench.spool.points(1000, ANY)
    for start in range(1000, 50_000, 1000):
        bench.add(points(1000, start))
    assert bench.points.counts().dropped["spool_full"] > 0
    bench.spool.ack_points(batch)
    bench.check()
    assert bench.points.counts().sent == 1000


def test_batch_that_was_read_before_the_disk_failed_removes_nobody_elses_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MEMORY_BYTES", 10)
    bench.add(points(10))
    batch = bench.spool.points(ANY, ANY)
    bench.fail_disk()
    bench.add(points(500, start=10))  # in memory, with ids from 1 again
    bench.spool.ack_points(batch)
    bench.check()
    bench.clock.advance(10)
    bench.spool.maintain()
    assert [point.step for point in bench.spool.points(ANY, ANY).points] == list(range(510))
    bench.check()


def test_failing_disk_costs_no_point_and_no_count(bench: Bench) -> None:
    bench.add(points(100))
    bench.fail_disk()
    bench.add(points(1000, start=100))
    bench.check()
    bench.clock.advance(10)
    bench.spool.maintain()
    assert bench.spool.path is not None
    assert [point.step for point in bench.spool.points(ANY, ANY).points] == list(range(1100))
    bench.check()


def test_memory_holds_less_than_a_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltelemetry.sinks.mlflow.spool.MEMORY_BYTES", 200_000)
    bench.fail_disk()
    for start in range(0, 20_000, 1000):
        bench.add(points(1000, start))
        bench.check()
    assert bench.points.counts().dropped["spool_full"] > 0


def test_what_only_memory_holds_at_the_end_is_lost_and_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("gone")

    bench.fail_disk()
    bench.add(points(1000))
    monkeypatch.setattr(database, "connect_disk", broken)
    bench.spool.close()
    counts = bench.points.counts()
    assert (counts.kept, counts.dropped) == (0, {"memory_lost": 1000})


def test_what_waits_in_the_file_at_the_end_is_not_counted_as_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(database, "MEMORY_BYTES", 10)
    bench.add(points(10))
    bench.fail_disk()
    bench.add(points(500, start=10))
    monkeypatch.setattr(database, "connect_disk", broken)
    bench.spool.close()
    counts = bench.points.counts()
    assert (counts.kept, counts.dropped) == (10, {"memory_lost": 500})


def test_points_that_nobody_can_store_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("no memory")

    bench.add(points(2))
    with monkeypatch.context() as broken:
        broken.setattr(bench.spool._db, "write", fail)
        with pytest.raises(sqlite3.OperationalError):
            bench.add(points(3))
    bench.check()
    assert bench.points.counts().dropped == {"spool_failed": 3}


@pytest.mark.parametrize(
    "body", [b"\xff\x00", b"", b"[[", b"7", b"null", b"[7]", b'[["k", 1.0]]', b'{"k": 1}', b"[" * 9999]
)
def test_row_that_cannot_be_read_costs_itself_only(bench: Bench, body: bytes) -> None:
    for start in (0, 10, 20):
        bench.add(points(10, start))
    bench.spool._db.write(lambda db: db.execute("UPDATE rows SET body = ? WHERE id = 2", (body,)))
    batch = bench.spool.points(ANY, ANY)
    assert [point.step for point in batch.points] == [*range(10), *range(20, 30)]
    assert bench.points.counts().dropped == {"unreadable": 10}
    bench.spool.ack_points(batch)
    bench.check()
    assert bench.spool.is_empty


def test_reader_passes_over_what_cannot_be_read(bench: Bench) -> None:
    for start in (0, 10):
        bench.add(points(10, start))
    bench.spool.put("run_id", "r")
    bench.spool._db.write(lambda db: db.execute("UPDATE rows SET body = '[1, 2]' WHERE id = 1"))
    bench.spool._db.write(lambda db: db.execute("INSERT INTO meta VALUES ('plan', '{')"))
    assert bench.spool.path is not None
    with SpoolReader(bench.spool.path) as reader:
        assert reader.points_after(0) == (points(10, 10), 2)
        assert reader.facts() == {"run_id": "r"}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "send", "refuse", "fail", "return"]), st.integers(1, 40)), max_size=30)
)
def test_account_is_exact_and_nothing_leaves_twice_whatever_happens(steps: list[tuple[str, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        chance, sent, added = random.Random(7), [], 0
        for action, amount in steps:
            if action == "add":
                bench.add(points(amount, start=added))
                added += amount
            elif action in {"send", "refuse"}:
                batch = bench.spool.points(amount, ANY)
                refused = chance.sample(batch.points, len(batch.points) // 2) if action == "refuse" else []
                bench.spool.ack_points(batch, [(point, "bad") for point in refused])
                sent += [point.step for point in batch.points]
            elif action == "fail" and bench.spool.path is not None:
                bench.fail_disk()
            elif action == "return":
                bench.clock.advance(10)
                bench.spool.maintain()
            bench.check()
        rest = [point.step for point in bench.spool.points(ANY, ANY).points]
        assert sent + rest == list(range(added))
        bench.spool.close()
