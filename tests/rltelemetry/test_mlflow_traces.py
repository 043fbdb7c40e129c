"""The stream of spans: they wait for the run, any server links them, and one that takes none holds nothing up."""

import asyncio
from typing import Any

import pytest
from delivery_bench import Bench, points, status
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.traces import JOINED_BYTES, JOINED_SPANS
from rltelemetry.testing import FakeMlflow, MlflowServer


def encoded(*names: str) -> bytes:
    """Encode traces of a root with one child each."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for name in names:
        with tracer.start_as_current_span(name), tracer.start_as_current_span("child"):
            pass
    return bytes(encode_spans(exporter.get_finished_spans()).SerializeToString())


def linked(server: MlflowServer, run_id: str | None) -> list[str]:
    return sorted(trace.root.name for trace in server.traces(run_id) if trace.root)


@pytest.mark.parametrize("links_runs", [True, False], ids=["new server", "old server"])
def test_traces_are_linked_to_their_run(links_runs: bool) -> None:
    bench = Bench(server=FakeMlflow(links_runs=links_runs))
    for number in range(3):
        bench.spool.append_traces(encoded(f"update {number}"), 2)
    assert bench.drain()
    assert linked(bench.server, bench.run.run_id) == ["update 0", "update 1", "update 2"]
    assert bench.spans.counts().sent == 6
    assert sum(request.path == "/v1/traces" for request in bench.requests) == 1, "rows share a request"
    asked = [request for request in bench.requests if "search" in request.path]
    assert len(asked) == 1, "whether the server links is asked once"


def test_spans_wait_for_the_run() -> None:
    bench = Bench()
    run_id, bench.run.run_id = bench.run.run_id, None
    bench.spool.append_traces(encoded("update"), 2)
    bench.drain()
    assert bench.requests == []
    bench.run.run_id = run_id
    assert bench.drain()
    assert linked(bench.server, run_id) == ["update"]


def test_refused_run_lets_traces_go_without_one() -> None:
    bench = Bench()
    bench.run.run_id, bench.run.is_refused, bench.run.experiment_id = None, True, None
    bench.spool.append_traces(encoded("update"), 2)
    assert bench.drain()
    assert linked(bench.server, None) == ["update"]


def test_export_that_is_repeated_is_stored_once() -> None:
    bench = Bench()
    bench.spool.append_traces(encoded("update"), 2)
    bench.fail(status(503), status(500), route="/v1/traces", stores=True)
    assert bench.drain()
    (trace,) = bench.server.traces(bench.run.run_id)
    assert sorted(span.name for span in trace.spans) == ["child", "update"]


@pytest.mark.parametrize(
    "server", [FakeMlflow(has_traces=False), FakeMlflow(store_type="FileStore")], ids=["404", "501"]
)
def test_server_without_the_route_gets_none_and_metrics_go_on(server: FakeMlflow) -> None:
    bench = Bench(server=server)
    for _ in range(3):
        bench.spool.append_traces(encoded("update"), 2)
    bench.add(points(10))
    assert bench.drain()
    assert bench.stored == points(10)
    counts = bench.spans.counts()
    assert (counts.sent, counts.kept, counts.dropped) == (0, 0, {"refused": 6})
    assert sum(request.path == "/v1/traces" for request in bench.requests) == 1
    assert "traces are off, metrics go on" in bench.said[0]


def test_missing_experiment_holds_the_spans() -> None:
    bench = Bench()
    bench.run.experiment_id = "999"
    bench.spool.append_traces(encoded("update"), 2)
    assert not bench.drain()
    assert bench.spans.counts().kept == 2


def test_export_that_cannot_be_read_is_dropped_and_the_next_one_sent() -> None:
    bench = Bench()
    bench.spool.append_traces(b"garbage", 5)
    bench.spool.append_traces(encoded("update"), 2)
    assert bench.drain()
    counts = bench.spans.counts()
    assert (counts.sent, counts.dropped) == (2, {"refused": 5})


def test_more_spans_than_a_request_may_hold_go_in_several() -> None:
    bench = Bench()
    for number in range(5):
        bench.spool.append_traces(encoded(*(f"update {number}-{root}" for root in range(20))), 40)
    assert bench.drain()
    assert len(linked(bench.server, bench.run.run_id)) == 100
    assert sum(request.path == "/v1/traces" for request in bench.requests) == 3


def test_joined_rows_that_take_too_long_go_one_by_one() -> None:
    bench = Bench()
    for number in range(3):
        bench.spool.append_traces(encoded(f"update {number}"), 2)
    sizes: list[int] = []
    send = bench.client.send_traces

    async def over_a_thin_line(spans: bytes, *arguments: Any) -> Outcome:
        sizes.append(len(spans))
        if len(spans) > 1.5 * min(sizes[-1], len(encoded("update 0"))):
            return Outcome(Verdict.RETRY, cause="no answer in time", is_timeout=True)
        return await send(spans, *arguments)

    bench.client.send_traces = over_a_thin_line  # type: ignore[method-assign]
    assert bench.drain()
    assert linked(bench.server, bench.run.run_id) == ["update 0", "update 1", "update 2"]
    assert len(sizes) == 4


def test_joined_rows_are_no_larger_than_a_request_may_be() -> None:
    bench = Bench()
    for _ in range(5):
        bench.spool.append_traces(b"x" * 400_000, 1)
    assert [len(row.body) for row in bench.spool.heads("traces", JOINED_SPANS, JOINED_BYTES)] == [400_000, 400_000]


def test_spans_rest_between_requests_and_points_do_not_wait_for_them() -> None:
    bench = Bench(flush_interval_s=1.0)

    async def scenario() -> None:
        running = asyncio.create_task(bench.delivery.run())
        for number in range(12):
            bench.add(points(1, start=number))
            bench.spool.append_traces(encoded(f"update {number}"), 2)
            await bench.pass_time(lambda: False, seconds=1.0)
        running.cancel()

    bench.do(scenario)
    sent = [request.path for request in bench.requests]
    assert 2 <= sent.count("/v1/traces") <= 3
    assert 10 <= sum(path.endswith("log-batch") for path in sent) <= 13
