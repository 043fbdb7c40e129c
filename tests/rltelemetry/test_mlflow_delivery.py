"""From the spool to the server: how much, how often, how patiently, and what becomes of what is refused."""

import asyncio
import errno
import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest
from delivery_bench import LOG_BATCH, Bench, points, status
from hypothesis import given, settings
from hypothesis import strategies as st

from rltelemetry.sinks.mlflow import client as client_module
from rltelemetry.sinks.mlflow.artifacts import MOST_SERVER_ERRORS
from rltelemetry.sinks.mlflow.backoff import HELD_FLOOR_S, HELD_S, MAX_BACKOFF_S
from rltelemetry.sinks.mlflow.delivery import Delivery
from rltelemetry.sinks.mlflow.lane import BATCH_GAP_S
from rltelemetry.sinks.mlflow.outcome import Outcome
from rltelemetry.sinks.mlflow.points import CATCH_UP, REPEAT
from rltelemetry.types import MetricPoint

REFUSED = httpx.ConnectError("connection refused")
TIMED_OUT = httpx.ReadTimeout("timed out")
RESET = httpx.ReadError("reset")
BAD = MetricPoint("bad@key", 1.0, 0, 1_700_000_000_000)
DELETED = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "The run must be in the \'active\' state."}'


def test_catch_up_is_in_large_requests_and_in_order() -> None:
    bench = Bench()
    for start in range(0, 2500, 25):
        bench.add(points(25, start))
    assert bench.drain()
    assert bench.batches == [1000, 1000, 500]
    assert bench.stored == points(2500)
    assert bench.points.counts().sent == 2500
    bench.check()


def test_request_stays_below_a_megabyte() -> None:
    bench = Bench()
    bench.add(points(1000, key="k" * 250))
    bench.add(points(1000, key="日" * 250))
    assert bench.drain()
    assert max(len(request.body) for request in bench.requests) < 1_000_000


def test_nothing_is_sent_while_the_run_is_unknown() -> None:
    bench = Bench()
    bench.run.run_id = None
    bench.add(points(100))
    bench.spool.append_call("tags", {"a": "b"})
    assert not bench.drain()
    assert bench.requests == []
    assert bench.points.counts().kept == 100


@pytest.mark.parametrize(
    "failure", [REFUSED, TIMED_OUT, RESET, status(500), status(503), status(429), status(408), status(425), status(502)]
)
def test_what_passes_is_tried_again_until_it_has_passed(failure: Any) -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail(failure, failure)
    assert bench.drain()
    assert bench.stored == points(10)
    assert bench.points.counts().sent == 10


def test_answer_that_was_lost_costs_and_doubles_nothing() -> None:
    bench = Bench()
    bench.add(points(1000))
    bench.fail(RESET, TIMED_OUT, route=LOG_BATCH, stores=True)
    assert bench.drain()
    assert bench.stored == points(1000)
    assert bench.points.counts().sent == 1000


def test_server_that_is_down_is_left_after_its_attempts() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(REFUSED)
    start = bench.clock.monotonic()
    assert not bench.drain()
    assert len(bench.requests) == bench.settings.request_attempts
    assert bench.clock.monotonic() - start < 5.0
    assert bench.points.counts().kept == 10
    (said,) = bench.said
    assert "10 points are kept" in said
    assert "ssh -N" in said


def test_server_that_is_known_to_be_down_is_asked_once_more() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(REFUSED)
    bench.drain()
    before = len(bench.requests)
    bench.drain()
    assert len(bench.requests) == before + 1


def test_patient_drain_waits_for_the_server() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail(*[REFUSED] * 20)
    assert bench.drain(is_patient=True)
    assert bench.stored == points(10)
    assert bench.said[-1].startswith("MLflow takes data again")


def test_patient_drain_ends_at_its_deadline() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(REFUSED)
    start = bench.clock.monotonic()
    assert not bench.drain(30.0, is_patient=True)
    assert 15.0 < bench.clock.monotonic() - start <= 31.0


def test_pause_between_tries_grows_to_its_cap_and_stays_there() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(REFUSED)
    bench.drain(600.0, is_patient=True)
    gaps = [after - before for before, after in itertools.pairwise(bench.sent_at)]
    assert max(gaps) <= MAX_BACKOFF_S + 0.2
    assert len(gaps) < 600 / MAX_BACKOFF_S * 5
    assert sum(gaps[20:]) / len(gaps[20:]) == pytest.approx(MAX_BACKOFF_S / 2, rel=0.4)


def test_servers_wish_is_a_floor() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail(status(429, retry_after="7"), status(503, retry_after="7"))
    assert bench.drain(is_patient=True)
    gaps = [after - before for before, after in itertools.pairwise(bench.sent_at)]
    assert all(7.0 <= gap < 9.0 for gap in gaps)


def test_servers_wish_beyond_the_deadline_ends_the_drain_at_once() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(status(429, retry_after="60"))
    start = bench.clock.monotonic()
    assert not bench.drain(3.0)
    assert len(bench.requests) == 1
    assert bench.clock.monotonic() - start < 1.0


def test_time_out_halves_the_request_and_lengthens_the_patience() -> None:
    bench = Bench()
    bench.add(points(1000))
    bench.fail(TIMED_OUT, TIMED_OUT, TIMED_OUT, route=LOG_BATCH)
    assert bench.drain(is_patient=True)
    assert bench.batches[:4] == [1000, REPEAT, REPEAT // 2, REPEAT // 4]
    assert bench.timeouts[:4] == pytest.approx([3.0, 10.0, 30.0, 30.0])
    assert sum(bench.batches[3:]) == 1000
    assert max(bench.batches[3:]) <= REPEAT, "all of these may have been stored already"
    assert bench.timeouts[-1] == 30.0, "a repeat is slow to the end"


def test_after_the_repeats_everything_is_as_before() -> None:
    bench = Bench()
    bench.add(points(1000))
    bench.fail(TIMED_OUT, route=LOG_BATCH)
    assert bench.drain(is_patient=True)
    bench.add(points(5000, start=1000))
    assert bench.drain()
    assert bench.batches[-2:] == [1000, 1000]
    assert bench.timeouts[-1] == 3.0


def test_refused_connection_stored_nothing_and_is_repeated_as_a_whole() -> None:
    bench = Bench()
    bench.add(points(1000))
    bench.fail(REFUSED, route=LOG_BATCH)
    assert bench.drain()
    assert bench.batches == [1000, 1000]


def test_spool_of_somebody_else_begins_with_small_requests() -> None:
    bench = Bench(is_inherited=True)
    bench.add(points(3000))
    assert bench.drain()
    assert bench.batches == [REPEAT] * 4 + [CATCH_UP] * 2


@pytest.mark.parametrize("place", [0, 24, 49])
def test_poison_is_buried_and_its_neighbours_are_stored(place: int) -> None:
    bench = Bench()
    batch = points(50)
    batch[place] = BAD
    bench.add(batch)
    bench.add(points(50, start=50))
    assert bench.drain()
    assert sorted(point.step for point in bench.stored) == sorted(set(range(100)) - {place})
    counts = bench.points.counts()
    assert (counts.sent, counts.kept, counts.dropped) == (99, 0, {"poison": 1})
    assert "'bad@key'" in bench.said[0]


def test_poison_does_not_hold_up_what_comes_later() -> None:
    bench = Bench()
    bench.add([BAD])
    bench.add(points(50))
    start = bench.clock.monotonic()
    assert bench.drain()
    assert bench.clock.monotonic() - start < 5.0
    assert len(bench.requests) < 25


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=120), st.sampled_from([400, 413, 422, 500]))
def test_every_good_point_is_stored_and_every_bad_one_counted_whatever_the_mixture(
    mixture: list[bool], code: int
) -> None:
    bench = Bench()
    bench.faults.append(lambda request: status(code) if b'"bad"' in request.body else None)
    bench.add(points(1))
    assert bench.drain()
    bench.add([points(1, start=index + 1, key="good" if good else "bad")[0] for index, good in enumerate(mixture)])
    assert bench.drain(is_patient=True)
    counts = bench.points.counts()
    assert counts.sent == 1 + sum(mixture)
    assert counts.dropped.get("poison", 0) == len(mixture) - sum(mixture)
    assert len(bench.stored) == counts.sent


def test_point_that_breaks_the_server_is_found_while_the_server_takes_others() -> None:
    bench = Bench()
    batch = points(50)
    batch[13] = batch[13]._replace(key="crash")
    bench.faults.append(lambda request: status(500, b"<html>") if b'"crash"' in request.body else None)
    bench.add(batch)
    assert bench.drain(is_patient=True)
    assert (bench.points.counts().sent, bench.points.counts().dropped) == (49, {"poison": 1})


def test_server_that_breaks_on_everything_blames_no_point() -> None:
    bench = Bench()
    bench.add(points(50))
    bench.fail_always(status(500), route=LOG_BATCH)
    assert not bench.drain(300.0, is_patient=True)
    bench.faults.clear()
    assert bench.drain()
    assert bench.points.counts().sent == 50


@pytest.mark.parametrize("code", [502, 503, 504])
def test_gateway_blames_no_point_however_often_it_fails(code: int) -> None:
    bench = Bench()
    bench.add(points(50))
    bench.fail(*[status(code)] * 12, route=LOG_BATCH)
    assert bench.drain(is_patient=True)
    assert bench.points.counts().sent == 50


@pytest.mark.parametrize("seen_good", [False, True])
def test_server_that_refuses_every_point_is_not_believed(seen_good: bool) -> None:
    bench = Bench()
    if seen_good:
        bench.add(points(10, start=1000))
        assert bench.drain()
    before = len(bench.requests)
    bench.add(points(100))
    bench.fail_always(status(400), route=LOG_BATCH)
    assert not bench.drain()
    assert len(bench.requests) - before <= 9
    assert bench.points.counts().kept == 100
    bench.faults.clear()
    bench.clock.advance(HELD_FLOOR_S)
    assert bench.drain()
    assert bench.points.counts().dropped == {}


def test_lone_poison_waits_for_company_that_proves_it() -> None:
    bench = Bench()
    bench.add([BAD])
    assert not bench.drain()
    assert bench.points.counts().kept == 1
    bench.add(points(1))
    bench.clock.advance(HELD_FLOOR_S)
    assert bench.drain()
    assert bench.points.counts().dropped == {"poison": 1}


@pytest.mark.parametrize("answer", [status(401), status(403), status(404), status(400, DELETED), status(302), status(200, b"<html>")])  # fmt: skip # noqa: E501
def test_what_waits_for_a_person_is_kept_and_hardly_asked_for(answer: httpx.Response) -> None:
    bench = Bench()
    bench.fail_always(answer, route=LOG_BATCH)

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        for start in range(0, 6000, 100):  # new points each second: they must not make it hurry
            bench.add(points(100, start))
            bench.delivery.wake()
            await bench.pass_time(lambda: False, seconds=1.0)
        running.cancel()

    bench.do(scenario)
    assert 3 <= len(bench.requests) <= 60 / HELD_FLOOR_S
    assert bench.points.counts().kept == 6000
    assert len(bench.said) <= 3, "one line in half a minute"


def test_held_data_does_not_keep_the_program_from_leaving() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.fail_always(status(401), route=LOG_BATCH)
    start = bench.clock.monotonic()
    assert not bench.drain()
    assert not bench.drain(is_patient=True)
    assert bench.clock.monotonic() - start < 1.0


def test_restored_run_gets_everything_after_the_pause() -> None:
    bench = Bench()
    bench.server.delete_run(str(bench.run.run_id))
    bench.add(points(10))

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        await bench.pass_time(lambda: bool(bench.said), seconds=10.0)
        assert "restore" in bench.said[0]
        bench.server.ask("POST", "/api/2.0/mlflow/runs/restore", {"run_id": bench.run.run_id})
        await bench.pass_time(lambda: bench.spool.is_empty, seconds=2 * HELD_S)
        running.cancel()

    bench.do(scenario)
    assert bench.stored == points(10)


def test_refused_traces_hold_up_no_metrics() -> None:
    bench = Bench()
    bench.add(points(10))
    bench.spool.append_traces(b"spans", 1)
    bench.fail_always(status(401), route="/v1/traces")
    assert not bench.drain()
    assert bench.stored == points(10)
    assert bench.spool.waiting() == {"traces": 1}


def test_artifact_on_its_way_stops_no_curve(tmp_path: Path) -> None:
    bench = Bench()
    (tmp_path / "weights").write_bytes(b"w")
    bench.spool.append_artifact("weights", {"path": str(tmp_path / "weights")})
    is_uploading, release = asyncio.Event(), asyncio.Event()
    put = bench.client.put_artifact

    async def slow(*arguments: Any) -> Any:
        is_uploading.set()
        await release.wait()
        return await put(*arguments)

    bench.client.put_artifact = slow  # type: ignore[method-assign]

    async def scenario() -> None:
        draining = asyncio.create_task(bench.delivery.drain(bench.clock.monotonic() + 3600, is_patient=False))
        await is_uploading.wait()
        bench.add(points(10))
        await bench.delivery._main.drain(bench.clock.monotonic() + 3600, is_patient=False)
        assert bench.stored == points(10)
        release.set()
        assert await draining

    bench.do(scenario)
    assert bench.server.artifact(str(bench.run.run_id), "weights") == b"w"


def test_points_leave_after_an_interval_or_when_enough_wait_but_not_twice_a_second_for_that() -> None:
    bench = Bench(flush_points=50, flush_interval_s=3.0)

    async def time_to_leave(count: int, start: int) -> float:
        bench.add(points(count, start))
        bench.delivery.wake()
        added_at = bench.clock.monotonic()
        await bench.pass_time(lambda: bench.spool.is_empty)
        return bench.clock.monotonic() - added_at

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        await bench.pass_time(lambda: False, seconds=3.5)
        assert bench.requests == []
        assert 2.0 <= await time_to_leave(1, start=0) <= 3.2
        await bench.pass_time(lambda: False, seconds=1.5)
        assert await time_to_leave(50, start=1) <= 0.2
        assert BATCH_GAP_S - 0.3 <= await time_to_leave(50, start=51) <= BATCH_GAP_S + 0.2
        running.cancel()

    bench.do(scenario)
    assert bench.batches == [1, 50, 50]


def test_points_that_come_during_a_request_wait_for_the_next_one() -> None:
    """A loop that logs all the time would have two requests a second, else, and pay twice."""
    bench = Bench(flush_interval_s=1.0)
    send, later = bench.client.log_points, itertools.count(1)

    async def meanwhile(*arguments: Any) -> Any:
        bench.add(points(1, start=10_000 + next(later)))
        return await send(*arguments)

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        bench.add(points(2500))
        await bench.pass_time(lambda: len(bench.batches) >= 3, seconds=1.5)
        bench.client.log_points = meanwhile  # type: ignore[method-assign]
        bench.add(points(10, start=5000))
        await bench.pass_time(lambda: False, seconds=4.0)
        running.cancel()

    bench.do(scenario)
    assert bench.batches[:4] == [1000, 1000, 500, 10], "what waited before leaves at once"
    assert 2 <= len(bench.batches[4:]) <= 4
    assert set(bench.batches[4:]) == {1}


def test_jump_of_the_wall_clock_changes_no_cadence() -> None:
    bench = Bench(flush_interval_s=1.0)

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        for index, jump_s in enumerate((-3600.0, 7200.0, 0.0)):
            bench.clock.jump(jump_s)
            bench.add(points(1, start=index))
            start = bench.clock.monotonic()
            await bench.pass_time(lambda: bench.spool.is_empty)
            assert bench.clock.monotonic() - start <= 1.2
        running.cancel()

    bench.do(scenario)
    assert bench.stored == points(3)


def test_sender_that_is_cancelled_in_the_middle_loses_and_doubles_nothing() -> None:
    bench = Bench()
    bench.add(points(3000))
    send = bench.client.log_points
    calls = itertools.count()

    async def interrupted(*arguments: Any) -> Any:
        outcome = await send(*arguments)
        if next(calls) == 1:  # the answer is there, and nobody has heard it yet
            raise asyncio.CancelledError
        return outcome

    bench.client.log_points = interrupted  # type: ignore[method-assign]

    async def scenario() -> None:
        with pytest.raises(asyncio.CancelledError):
            await bench.delivery.drain(bench.clock.monotonic() + 3600, is_patient=False)
        bench.check()
        assert bench.points.counts().sent == 1000
        assert await bench.delivery.drain(bench.clock.monotonic() + 3600, is_patient=False)

    bench.do(scenario)
    assert bench.stored == points(3000)
    assert bench.points.counts().sent == 3000


def test_lost_loop_is_forgotten() -> None:
    bench = Bench()
    bench.add(points(10))

    async def hang() -> None:
        async with asyncio.timeout(0.05):
            await bench.delivery.run()

    bench.fail_always(REFUSED)
    with pytest.raises(TimeoutError):
        bench.do(hang)
    bench.faults.clear()
    bench.delivery.forget_loop()
    bench.clock.advance(60)
    assert bench.drain()


def test_calls_are_performed_in_their_order_before_the_points() -> None:
    bench = Bench()
    bench.add(points(1))
    bench.spool.append_call("params", {"a": "1"})
    bench.spool.append_call("tags", {"t": "x"})
    bench.spool.append_call("status", {"status": "FINISHED", "end_time_ms": 7})
    assert bench.drain()
    run = bench.server.run(str(bench.run.run_id))
    assert (run.params, run.tags["t"], run.status, run.end_time_ms) == ({"a": "1"}, "x", "FINISHED", 7)
    assert b"params" in bench.requests[0].body


def test_refused_parameter_costs_itself_only() -> None:
    bench = Bench()
    bench.spool.append_call("params", {"a": "1"})
    bench.spool.append_call("params", {"a": "2"})
    bench.spool.append_call("params", {"b": "3"})
    assert bench.drain()
    assert bench.server.run(str(bench.run.run_id)).params == {"a": "1", "b": "3"}
    assert "refuses parameters for good" in bench.said[0]


def test_time_out_while_calls_are_taken_apart_is_answered_with_more_patience() -> None:
    bench = Bench()
    bench.spool.append_call("params", {"a": "1"})
    assert bench.drain()
    bench.spool.append_call("params", {"a": "2", "b": "3"})
    before = len(bench.requests)
    bench.fail(None, httpx.ReadTimeout("slow"))
    assert bench.drain()
    together, first, again = bench.timeouts[before : before + 3]
    assert together == first < again


@pytest.mark.parametrize("hiccup", [status(500), status(504), status(401)])
def test_removal_that_fails_once_is_tried_again(hiccup: httpx.Response) -> None:
    bench = Bench()
    bench.spool.append_artifact("old", {"text": "weights"})
    assert bench.drain()
    bench.spool.append_artifact("old", {})
    bench.fail(hiccup, route="/artifacts/")
    bench.drain()
    bench.clock.advance(HELD_FLOOR_S)
    assert bench.drain()
    assert bench.server.artifact(str(bench.run.run_id), "old") is None


def test_removal_that_always_fails_holds_up_nothing() -> None:
    bench = Bench()
    bench.spool.append_artifact("old", {})
    bench.spool.append_artifact("new", {"text": "weights"})
    bench.fail(*[status(500)] * 5, route="/artifacts/")
    for _ in range(5):
        bench.drain()
        bench.clock.advance(HELD_FLOOR_S)
    assert bench.server.artifact(str(bench.run.run_id), "new") == b"weights"


def test_artifact_at_which_the_server_always_fails_holds_up_no_other_for_ever() -> None:
    bench = Bench(request_attempts=3)
    for name in ("bad", "good"):
        bench.spool.append_artifact(name, {"text": "weights"})
    bench.fail_always(status(500), route="/bad")
    assert not bench.drain()
    heir = Delivery(bench.settings, bench.spool, bench.client, bench.run, bench.notices, bench.clock)
    bench.delivery = heir  # another process has counted the first errors
    assert bench.drain()
    assert sum(request.path.endswith("/bad") for request in bench.requests) == MOST_SERVER_ERRORS
    assert bench.server.artifact(str(bench.run.run_id), "good") == b"weights"
    assert sum("refuses an artifact for good" in text for text in bench.said) == 1


def test_only_errors_in_a_row_of_one_artifact_bury_it() -> None:
    bench = Bench(request_attempts=20)
    for name in ("first", "second"):
        bench.spool.append_artifact(name, {"text": name})
    bench.fail(*[status(500)] * 4, status(503), *[status(500)] * 4, None, *[status(500)] * 4, route="/artifacts/")
    assert bench.drain()
    for name in ("first", "second"):
        assert bench.server.artifact(str(bench.run.run_id), name) == name.encode()


def test_errors_of_an_artifact_that_is_gone_are_not_the_next_ones(tmp_path: Path) -> None:
    bench = Bench(request_attempts=4)
    (tmp_path / "rotated").write_bytes(b"weights")
    bench.spool.append_artifact("rotated", {"path": str(tmp_path / "rotated")})
    bench.spool.append_artifact("next", {"text": "next"})
    bench.fail(*[status(500)] * 8, route="/artifacts/")
    assert not bench.drain()
    (tmp_path / "rotated").unlink()
    while not bench.drain():
        pass
    assert bench.server.artifact(str(bench.run.run_id), "next") == b"next"


@pytest.mark.parametrize("code", [502, 503, 504])
def test_gateway_blames_no_artifact_however_often_it_fails(code: int) -> None:
    bench = Bench(request_attempts=50)
    bench.spool.append_artifact("a", {"text": "a"})
    bench.fail(*[status(code)] * 20, route="/artifacts/")
    assert bench.drain()
    assert bench.server.artifact(str(bench.run.run_id), "a") == b"a"


@pytest.mark.parametrize("content", [{"text": "x"}, {}], ids=["text", "removal"])
def test_spool_of_somebody_else_cannot_reach_out_of_its_run(content: dict[str, str]) -> None:
    bench = Bench()
    bench.spool.append_artifact("../../other/artifacts/model", content)
    assert bench.drain()
    assert bench.requests == []
    assert "leads out of the run" in bench.said[0]


def test_file_that_cannot_be_read_for_a_while_is_kept_and_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench()
    (tmp_path / "a").write_bytes(b"a")
    bench.spool.append_artifact("a", {"path": str(tmp_path / "a")})

    def fail(_: Path) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as shortage:
        shortage.setattr(client_module, "_open", fail)
        assert not bench.drain()
    assert bench.drain()
    assert bench.server.artifact(str(bench.run.run_id), "a") == b"a"


def test_artifacts_of_a_server_that_keeps_none_are_dropped_with_a_word(tmp_path: Path) -> None:
    bench = Bench()
    (tmp_path / "a").write_bytes(b"a")
    bench.spool.append_artifact("a", {"path": str(tmp_path / "a")})
    bench.fail_always(status(503, b"disabled due to the mlflow server running with `--no-serve-artifacts`"))
    assert bench.drain()
    bench.run.artifact_root = None
    bench.spool.append_artifact("a", {"path": str(tmp_path / "a")})
    assert bench.drain()
    assert "an artifact" in bench.said[0]


def test_stream_that_raises_holds_up_no_other_one_and_ends_neither_run_nor_drain() -> None:
    bench = Bench()
    bench.spool.append_artifact("config.yaml", {"text": "never leaves"})

    async def broken(*_: Any) -> Outcome:
        raise RuntimeError("token=s3cret is broken")

    bench.client.put_text = broken  # type: ignore[method-assign]

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        for start in range(0, 30, 10):
            bench.add(points(10, start))
            await bench.pass_time(running.done, seconds=2.0)
        assert not running.done()
        running.cancel()

    bench.do(scenario)
    assert bench.stored == points(30)
    assert not bench.drain(is_patient=True)
    assert bench.spool.waiting() == {"artifact": 1}
    (said,) = bench.said
    assert "RuntimeError: token=*** is broken" in said
