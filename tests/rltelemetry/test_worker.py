"""The worker: order, chunks, failures that cost one record, flush and close within their bounds."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from rltelemetry.clock import SystemClock
from rltelemetry.handoff import Call, Handoff, SpanEnd
from rltelemetry.intake import Intake
from rltelemetry.notices import Notices
from rltelemetry.schema import Category
from rltelemetry.spans import add_foreign_event
from rltelemetry.types import Record
from rltelemetry.worker import CHUNK, Worker


class RecordingSink:
    def __init__(self, fail_on: str = "") -> None:
        self.records: list[Record] = []
        self.commits: list[int] = []
        self._fail_on = fail_on

    def emit(self, record: Record) -> None:
        if self._fail_on and record.event == self._fail_on:
            raise RuntimeError("sink broke")
        self.records.append(record)

    def commit(self) -> None:
        self.commits.append(len(self.records))


class Spans(RecordingSink):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[object] = []

    def emit(self, record: Record) -> None:
        self.log.append(record.event)

    def end_span(self, end: SpanEnd) -> None:
        self.log.append(end.time_ns)

    def end_open_spans(self, time_ns: int) -> None:
        self.log.append("open spans ended")

    def begin_close(self) -> None:
        self.log.append("closing")


class Delivery:
    def __init__(self, takes_s: float = 0.0) -> None:
        self.deadlines: list[float] = []
        self._takes_s = takes_s

    async def drain(self, deadline: float) -> bool:
        self.deadlines.append(deadline)
        await asyncio.sleep(self._takes_s)
        return True

    async def finish(self, deadline: float) -> None:
        await self.drain(deadline)


class Bench:
    """A worker with its surroundings."""

    def __init__(self, **parts: Any) -> None:
        self.notices: list[str] = []
        self.handoff = Handoff(10_000, 1 << 20, set(), add_foreign_event)
        self.sink = RecordingSink()
        notices = Notices(lambda _level, message: self.notices.append(message), SystemClock())
        spans, sinks = parts.pop("spans", None), parts.pop("sinks", [self.sink])
        self.intake = Intake(self.handoff, spans, sinks, notices)
        defaults = {"delivery": None, "background": [], "notices": notices}
        self.worker = Worker(self.handoff, self.intake, **{**defaults, **parts})

    def log(self, event: str, /, **fields: Any) -> None:
        self.handoff.put("info", "test", event, fields, {})


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.worker.start()
    yield made
    made.worker.close(2.0)


def test_event_becomes_a_record_with_its_category_and_safe_values(bench: Bench) -> None:
    bench.log("train", category="train", critic_loss=0.5, timesteps=100, note="two\nlines")
    assert bench.worker.flush(5.0)
    (record,) = bench.sink.records
    assert (record.event, record.level, record.logger, record.category) == ("train", "info", "test", Category.TRAINER)
    assert record.fields == {"critic_loss": 0.5, "timesteps": 100, "note": r"two\nlines"}
    assert bench.intake.events_processed == 1


def test_field_named_event_stands_beside_the_message(bench: Bench) -> None:
    bench.log("x", event=1)
    bench.worker.flush(5.0)
    assert (bench.sink.records[0].event, bench.sink.records[0].fields) == ("x", {"event_": 1})


def test_own_fields_win_over_bound_ones(bench: Bench) -> None:
    bench.handoff.put("info", "test", "x", {"a": 1}, {"a": 0, "b": 0})
    bench.worker.flush(5.0)
    assert bench.sink.records[0].fields == {"a": 1, "b": 0}


def test_long_queue_is_committed_in_pieces_and_keeps_its_order(bench: Bench) -> None:
    for index in range(3 * CHUNK):
        bench.log("x", index=index)
    bench.worker.flush(5.0)
    assert [record.fields["index"] for record in bench.sink.records] == list(range(3 * CHUNK))
    assert len({count for count in bench.sink.commits if count}) >= 3


def test_record_that_breaks_a_sink_costs_that_sink_that_record() -> None:
    broken, sound = RecordingSink(fail_on="bad"), RecordingSink()
    bench = Bench(sinks=[broken, sound])
    bench.worker.start()
    for event in ("good", "bad", "good again"):
        bench.log(event)
    bench.worker.close(2.0)
    assert [record.event for record in broken.records] == ["good", "good again"]
    assert [record.event for record in sound.records] == ["good", "bad", "good again"]
    assert bench.notices == ["RecordingSink failed: RuntimeError('sink broke')"]


def test_item_that_cannot_be_processed_is_dropped_and_counted(bench: Bench) -> None:
    bench.handoff.queue.append(("not", "a", "snapshot"))
    bench.log("x")
    bench.worker.flush(5.0)
    assert [record.event for record in bench.sink.records] == ["x"]
    assert bench.intake.events_dropped == {"processor": 1}
    assert bench.intake.events_processed == 1


def test_span_end_stands_behind_the_events_of_its_span() -> None:
    spans = Spans()
    bench = Bench(spans=spans, sinks=[spans])
    bench.log("inside")
    bench.handoff.put_unbounded(SpanEnd(None, 7))  # type: ignore[arg-type]
    bench.log("after")
    bench.worker.start()
    bench.worker.close(2.0)
    assert spans.log == ["inside", 7, "after", "open spans ended", "closing"]


def test_calls_run_on_the_worker_in_the_order_of_the_queue(bench: Bench) -> None:
    threads: list[str] = []
    bench.handoff.put_unbounded(Call(lambda: threads.append(threading.current_thread().name)))
    assert bench.worker.flush(5.0)
    assert threads == ["rltelemetry"]


def test_worker_has_a_context_of_its_own(bench: Bench) -> None:
    """Whoever wakes it has variables, a current span among them, that are none of its business."""
    variable: ContextVar[str] = ContextVar("callers", default="nobody's")
    seen: list[str] = []
    variable.set("the caller's")
    for _ in range(2):
        bench.handoff.put_unbounded(Call(lambda: seen.append(variable.get())))
        assert bench.worker.flush(5.0)
    assert seen == ["nobody's"] * 2


def test_empty_queue_is_no_work_but_for_a_look_each_second(bench: Bench) -> None:
    bench.log("x")
    assert bench.worker.flush(5.0)
    num_commits = len(bench.sink.commits)
    time.sleep(2.5)
    assert 2 <= len(bench.sink.commits) - num_commits <= 4


def test_flush_waits_for_delivery_and_gives_up_at_its_bound() -> None:
    delivery = Delivery(takes_s=30.0)
    bench = Bench(delivery=delivery)
    bench.worker.start()
    start = time.monotonic()
    assert not bench.worker.flush(0.2)
    assert 0.2 <= time.monotonic() - start < 1.0
    assert delivery.deadlines[0] == pytest.approx(start + 0.2, abs=0.1)


def test_commit_tells_whether_every_sink_could(bench: Bench) -> None:
    assert bench.worker.commit(5.0)

    def fail() -> None:
        raise OSError("disk broke")

    bench.sink.commit = fail  # type: ignore[method-assign]
    assert not bench.worker.commit(5.0)


def test_close_ends_within_its_bound_when_delivery_hangs() -> None:
    bench = Bench(delivery=Delivery(takes_s=30.0))
    bench.worker.start()
    start = time.monotonic()
    assert not bench.worker.close(0.3)
    assert time.monotonic() - start < 1.0


def test_what_comes_after_the_end_is_counted_as_late() -> None:
    bench = Bench()
    bench.worker.start()
    bench.worker.close(2.0)
    bench.log("too late")
    bench.worker.close(0.0)
    assert bench.intake.events_dropped == {"late": 1}


def test_failing_task_is_said_and_started_again() -> None:
    starts: list[int] = []
    running = threading.Event()

    async def task() -> None:
        starts.append(1)
        if len(starts) == 1:
            raise RuntimeError("task broke")
        running.set()
        await asyncio.sleep(60)

    bench = Bench(background=[task])
    bench.worker.start()
    assert running.wait(5.0)
    assert bench.worker.close(2.0)
    assert "RuntimeError('task broke')" in bench.notices[0]


def test_worker_that_dies_is_said_and_goes_on_with_nothing_lost() -> None:
    class Fatal(BaseException):
        pass

    class Bomb(RecordingSink):
        is_armed = True

        def commit(self) -> None:
            if self.is_armed and self.records:
                self.is_armed = False
                raise Fatal

    bomb = Bomb()
    bench = Bench(sinks=[bomb])
    bench.worker.start()
    bench.log("one")
    bench.log("two")
    assert bench.worker.flush(10.0)
    bench.log("three")
    assert bench.worker.close(2.0)
    assert [record.event for record in bomb.records] == ["one", "two", "three"]
    assert "started again" in bench.notices[0]


def test_worker_that_dies_while_closing_still_finishes_within_the_bound() -> None:
    class Fragile(Delivery):
        async def finish(self, deadline: float) -> None:
            await super().finish(deadline)
            if len(self.deadlines) == 1:
                raise SystemExit("a bug")

    delivery = Fragile()
    bench = Bench(delivery=delivery)
    bench.worker.start()
    bench.log("x")
    assert bench.worker.close(10.0)
    assert len(delivery.deadlines) == 2
    assert bench.intake.events_processed == 1


def test_failed_loop_is_tidied_up_before_the_next_one() -> None:
    log: list[str] = []
    is_running = threading.Event()

    async def background() -> None:
        is_running.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append("task ended")

    async def on_loop_lost() -> None:
        log.append("loop left")

    class Deadly(RecordingSink):
        def emit(self, record: Record) -> None:
            if record.event == "deadly":
                raise SystemExit
            super().emit(record)

    bench = Bench(sinks=[Deadly()], background=[background], on_loop_lost=on_loop_lost)
    bench.worker.start()
    assert is_running.wait(10.0)
    bench.log("deadly")
    bench.log("x")
    assert bench.worker.flush(20.0)
    assert log == ["task ended", "loop left"]
    assert bench.worker.close(2.0)
    assert bench.intake.events_dropped == {"processor": 1}


def test_leftovers_are_counted_once_though_the_worker_still_lives() -> None:
    release = threading.Event()

    class Slow(RecordingSink):
        def emit(self, record: Record) -> None:
            super().emit(record)
            if len(self.records) == 1:
                release.wait(30.0)

    sink = Slow()
    bench = Bench(sinks=[sink])
    bench.worker.start()
    for _ in range(1000):
        bench.log("x")
    assert not bench.worker.close(0.1)
    release.set()
    bench.worker._thread.join(30.0)
    assert bench.intake.events_processed + sum(bench.intake.events_dropped.values()) == 1000
    assert bench.intake.events_processed == len(sink.records)


def test_full_queue_is_said_with_its_count() -> None:
    bench = Bench()
    bench.handoff._capacity = bench.handoff.watermark = 10
    for _ in range(25):
        bench.log("x")
    bench.worker.start()
    bench.worker.close(2.0)
    assert bench.intake.events_dropped == {"full": 15}
    assert bench.intake.events_processed == 10
    assert bench.notices == ["15 events were dropped: they came faster than they can be processed"]
