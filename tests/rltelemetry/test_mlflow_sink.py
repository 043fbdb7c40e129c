"""The sink as a whole, on the fake server and on a real one: records in, and exactly their points out."""

import asyncio
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from delivery_bench import Destination

from rltelemetry.clock import SystemClock
from rltelemetry.notices import Notices
from rltelemetry.schema import Category
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import Delivery, Ledger, MlflowClient, MlflowSink, Spool, SpoolFile, make_loop
from rltelemetry.testing import MlflowServer, ToxicProxy
from rltelemetry.types import MetricPoint, Record

NOW_MS = 1_700_000_000_000
PATIENCE_S = 60.0


class Way:
    """A sink and its delivery, to a run of its own."""

    def __init__(self, uri: str, run_id: str, directory: Path, **fields: Any) -> None:
        self.settings = Settings(tracking_uri=uri, **fields)
        self.run_id = run_id
        self.said: list[str] = []
        clock, notices = SystemClock(), Notices(lambda _level, message: self.said.append(message), SystemClock())
        self.points, self.spans = Ledger(), Ledger()
        self.file = SpoolFile.new(directory, clock.time_ns())
        self.spool = Spool(self.file, self.settings, notices, clock, self.points, self.spans)
        self.client = MlflowClient(self.settings)
        self.delivery = Delivery(self.settings, self.spool, self.client, Destination(run_id), notices, clock)
        self.kept_at_commits: list[int] = []
        self.sink = MlflowSink(self.settings, self.spool, self.points, notices, self._on_commit)

    def _on_commit(self) -> None:
        self.kept_at_commits.append(self.spool.points_kept)

    def drain(self, timeout_s: float = PATIENCE_S, *, is_patient: bool = True) -> bool:
        async def scenario() -> bool:
            try:
                return await self.delivery.drain(SystemClock().monotonic() + timeout_s, is_patient=is_patient)
            finally:
                await self.client.leave_loop()

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(scenario())


def record(step: Any = 0, time_ms: int = NOW_MS, **fields: Any) -> Record:
    named = {"timesteps": step, **fields} if step is not None else fields
    return Record(time_ms * 1_000_000, "info", "test", "train", Category.TRAINER, named)


@pytest.fixture
def way(any_mlflow: MlflowServer, tmp_path: Path) -> Way:
    return Way(any_mlflow.uri, any_mlflow.create_run(), tmp_path)


def stored(server: MlflowServer, way: Way) -> Counter[str]:
    return Counter(repr(point) for point in server.points(way.run_id))


def test_records_become_exactly_their_points(any_mlflow: MlflowServer, way: Way) -> None:
    expected: Counter[str] = Counter()
    for step in range(300):
        way.sink.emit(record(step, NOW_MS + step, loss=step / 3, flag=True, text="1.5", entropy=float("nan")))
        for key, value in (("trainer/loss", step / 3), ("trainer/entropy", float("nan"))):
            expected[repr(MetricPoint(key, value, step, NOW_MS + step))] += 1
        if step % 50 == 0:
            way.sink.commit()
    way.sink.commit()
    assert way.drain()
    assert stored(any_mlflow, way) == expected
    counts = way.points.counts()
    assert (counts.extracted, counts.sent, counts.kept, counts.dropped) == (600, 600, 0, {})


def test_refused_values_are_counted_and_their_neighbours_stored(any_mlflow: MlflowServer, way: Way) -> None:
    way.sink.emit(record(1, good=1.0, up=math.inf, down=-math.inf, wide=10**400, imaginary=1j, also=2.0))
    way.sink.emit(record(1.5, lost=1.0))
    way.sink.emit(record(2**63, lost=1.0))
    way.sink.emit(record(None, lost=1.0))
    way.sink.commit()
    assert way.drain()
    keys = {point.partition("'")[2].partition("'")[0] for point in stored(any_mlflow, way)}
    assert keys == {"trainer/good", "trainer/also"}
    counts = way.points.counts()
    assert counts.sent == 2
    assert counts.dropped == {"infinite": 2, "not_convertible": 2, "bad_step": 1, "step_out_of_range": 1}
    assert counts.extracted == 8
    assert sum("trainer/up" in line for line in way.said) == 1


def test_broken_way_loses_and_doubles_nothing(any_mlflow: MlflowServer, tmp_path: Path) -> None:
    expected: Counter[str] = Counter()
    with ToxicProxy(any_mlflow.uri) as proxy:
        way = Way(proxy.uri, any_mlflow.create_run(), tmp_path, request_timeout_s=5.0)
        for part, mode in enumerate(("lose_reply", "cut_reply", "reset", "garbage", "pass")):
            for step in range(part * 100, part * 100 + 100):
                way.sink.emit(record(step, NOW_MS + step, loss=step / 7))
                expected[repr(MetricPoint("trainer/loss", step / 7, step, NOW_MS + step))] += 1
            way.sink.commit()
            proxy.set_mode(mode, count=1)  # type: ignore[arg-type]
            assert way.drain()
    assert stored(any_mlflow, way) == expected
    assert way.points.counts().sent == 500


def test_commit_makes_points_durable_before_it_says_so(way: Way) -> None:
    way.sink.emit(record(1, loss=1.0))
    assert way.points.counts().extracted == 0, "what is counted as kept is on disk"
    assert way.kept_at_commits == []
    way.sink.commit()
    assert way.kept_at_commits == [1]
    assert way.points.counts().kept == way.spool.points_kept == way.spool.waiting()["points"] == 1


def test_metrics_that_are_off_give_no_points(any_mlflow: MlflowServer, tmp_path: Path) -> None:
    way = Way(any_mlflow.uri, "r", tmp_path, metrics=False)
    way.sink.emit(record(1, loss=1.0))
    way.sink.commit()
    assert way.points.counts().extracted == 0


def test_points_without_an_event_are_taken_too(any_mlflow: MlflowServer, way: Way) -> None:
    way.sink.add_points([MetricPoint("system/cpu", 50.0, 0, NOW_MS)])
    way.sink.commit()
    assert way.drain()
    assert stored(any_mlflow, way) == {repr(MetricPoint("system/cpu", 50.0, 0, NOW_MS)): 1}
