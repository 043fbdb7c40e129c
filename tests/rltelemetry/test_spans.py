"""Spans from the caller's block to the encoded export, through the real OpenTelemetry SDK and its encoder."""

import json
import threading
import time
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, TraceFlags, get_current_span, use_span

from rltelemetry.chain import to_record
from rltelemetry.handoff import Handoff, Snapshot, SpanEnd
from rltelemetry.sinks.otlp import OtlpSink, foreign_endpoint
from rltelemetry.sinks.otlp.sink import MAX_ROOTS, MAX_TRACES
from rltelemetry.spans import SpanOpener, add_foreign_event


class Tracing:
    """Opener, queue and sink, with the worker's part played by hand."""

    def __init__(self, interval_s: float = 0.0, capacity: int = 1000) -> None:
        self.exports: list[tuple[bytes, int, int]] = []
        self.open_spans: set[Any] = set()
        self.handoff = Handoff(capacity, 1 << 20, self.open_spans, add_foreign_event)
        self.refused: list[tuple[str, int]] = []
        self.sink = OtlpSink(
            "tests", lambda *export: self.exports.append(export), lambda: "run1", self.open_spans, {},
            lambda *refusal: self.refused.append(refusal),
        )  # fmt: skip
        self.opener = SpanOpener(self.sink.tracer, self.handoff, self.open_spans, interval_s)

    def span(self, name: str, **inputs: Any) -> Any:
        return self.opener.span(name, inputs)

    def log(self, event: str, /, **fields: Any) -> None:
        self.handoff.put("info", "tests", event, fields, {})

    def work(self) -> None:
        while self.handoff.queue:
            item = self.handoff.queue.popleft()
            if isinstance(item, SpanEnd):
                self.sink.end_span(item)
            else:
                self.sink.emit(to_record(Snapshot._make(item)))
        self.sink.commit()

    @property
    def spans(self) -> list[Any]:
        return [span for body, _count in self.exports for span in spans_of(body)]


def spans_of(body: bytes) -> list[Any]:
    resources = TracesData.FromString(body).resource_spans
    return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


def attributes(holder: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in holder.attributes}


def test_events_are_events_of_their_span_and_the_end_is_when_the_block_was_left() -> None:
    tracing = Tracing()
    with tracing.span("update", update=3):
        tracing.log("train", category="TRAINER", critic_loss=0.5)
        time.sleep(0.002)
        left_ns = time.time_ns()
    time.sleep(0.01)
    tracing.work()
    (span,) = tracing.spans
    assert span.name == "update"
    assert abs(span.end_time_unix_nano - left_ns) < 5_000_000
    (event,) = span.events
    assert event.name == "train"
    assert attributes(event) == {"category": "TRAINER", "level": "info", "critic_loss": 0.5}
    assert tracing.open_spans == set()


def test_children_hang_under_their_root_and_are_exported_before_it() -> None:
    tracing = Tracing()
    with tracing.span("update"):
        with tracing.span("rollout"):
            tracing.log("inside rollout")
        with tracing.span("optimise"):
            tracing.log("inside optimise")
    tracing.work()
    by_name = {span.name: span for span in tracing.spans}
    assert list(by_name) == ["rollout", "optimise", "update"]
    assert by_name["rollout"].parent_span_id == by_name["optimise"].parent_span_id == by_name["update"].span_id
    assert [by_name[name].events[0].name for name in ("rollout", "optimise")] == ["inside rollout", "inside optimise"]
    assert [count for _body, count in tracing.exports] == [3]


def test_root_tells_mlflow_its_inputs_outputs_kind_and_session() -> None:
    tracing = Tracing()
    with tracing.span("update", update=3), tracing.span("optimise"):
        tracing.log("train", category="TRAINER", critic_loss=0.5, timesteps=100)
        tracing.log("train", category="TRAINER", critic_loss=0.25, timesteps=200, note="text", bad=float("inf"))
    tracing.work()
    child, root = (attributes(span) for span in tracing.spans)
    assert json.loads(root["mlflow.spanInputs"]) == {"update": 3}
    assert json.loads(root["mlflow.spanOutputs"]) == {"trainer/critic_loss": 0.25, "timesteps": 200}
    assert (root["mlflow.spanType"], root["session.id"]) == ("CHAIN", "run1")
    assert child["mlflow.spanType"] == "TASK"
    assert "mlflow.spanOutputs" not in child


def test_span_that_cannot_be_encoded_costs_itself_and_is_counted() -> None:
    tracing = Tracing()
    for number in range(3):
        with tracing.span(f"update {number}"):
            if number == 1:
                get_current_span().add_event("\udce9")
    tracing.work()
    assert [span.name for span in tracing.spans] == ["update 0", "update 2"]
    assert tracing.refused == [("encoding", 1)]


def test_outputs_of_roots_that_never_come_are_forgotten() -> None:
    tracing = Tracing()
    for number in range(2 * MAX_TRACES):
        elsewhere = NonRecordingSpan(SpanContext(number + 1, 1, is_remote=True, trace_flags=TraceFlags(1)))
        with use_span(elsewhere), tracing.span("update"):
            tracing.log("train", category="TRAINER", loss=0.5, timesteps=number)
    tracing.work()
    assert len(tracing.sink._outputs) <= MAX_TRACES


def test_exception_marks_the_span_and_stands_after_its_events() -> None:
    tracing = Tracing()
    with pytest.raises(ValueError, match="broken"), tracing.span("update"):  # noqa: PT012 - the block is the subject
        tracing.log("before")
        raise ValueError("broken")
    tracing.work()
    (span,) = tracing.spans
    assert [event.name for event in span.events] == ["before", "exception"]
    assert attributes(span.events[1])["exception.message"] == "broken"
    assert (span.status.code, span.status.message) == (2, "ValueError: broken")


@pytest.mark.parametrize("way_out", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_way_out_is_not_an_error_of_the_span(way_out: type[BaseException]) -> None:
    tracing = Tracing()
    with pytest.raises(way_out), tracing.span("update"):
        raise way_out
    tracing.work()
    assert tracing.spans[0].status.code == 0
    assert len(tracing.spans[0].events) == 0


def test_event_outside_any_span_becomes_a_zero_length_span() -> None:
    tracing = Tracing()
    tracing.log("start", seed=1)
    tracing.work()
    (span,) = tracing.spans
    assert (span.name, span.end_time_unix_nano - span.start_time_unix_nano) == ("start", 0)
    assert attributes(span)["seed"] == 1
    assert json.loads(attributes(span)["mlflow.spanInputs"])["seed"] == 1


def test_event_later_than_its_span_becomes_a_child_of_its_own_and_is_counted() -> None:
    tracing = Tracing()
    go_on, context_taken = threading.Event(), threading.Event()

    def late() -> None:
        context_taken.set()
        go_on.wait(5.0)
        tracing.log("late")

    with tracing.span("update") as span:
        import contextvars

        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
        context_taken.wait(5.0)
    tracing.work()
    go_on.set()
    thread.join()
    tracing.work()
    update, own = tracing.spans
    assert (own.name, own.parent_span_id) == ("late", update.span_id)
    assert own.end_time_unix_nano == own.start_time_unix_nano
    assert not span.is_recording()


def test_span_left_open_is_ended_at_close() -> None:
    tracing = Tracing()
    left_open = tracing.span("update")
    left_open.__enter__()
    tracing.log("inside")
    tracing.work()
    tracing.sink.end_open_spans(time.time_ns())
    tracing.sink.commit()
    assert [(span.name, len(span.events)) for span in tracing.spans] == [("update", 1)]
    left_open.__exit__(None, None, None)


def test_end_bypasses_a_full_queue() -> None:
    tracing = Tracing(capacity=16)
    with tracing.span("update"):
        for _ in range(50):
            tracing.log("x")
    tracing.work()
    (span,) = tracing.spans
    assert len(span.events) == 16
    assert tracing.handoff.take_drops() == {"full": 34}


def test_interval_leaves_out_whole_traces_and_never_their_neighbours() -> None:
    tracing = Tracing(interval_s=3600.0)
    for update in range(3):
        with tracing.span("update", update=update), tracing.span("rollout"):
            tracing.log("inside", update=update)
    tracing.log("outside")
    tracing.work()
    assert [span.name for span in tracing.spans] == ["rollout", "update", "outside"]


def test_many_roots_are_exported_in_pieces_that_mlflow_links() -> None:
    tracing = Tracing()
    for update in range(250):
        with tracing.span("update", update=update), tracing.span("rollout"):
            pass
    tracing.work()
    exports = [spans_of(body) for body, _count in tracing.exports]
    roots = [sum(not span.parent_span_id for span in spans) for spans in exports]
    assert (sum(roots), max(roots)) == (250, MAX_ROOTS)
    assert [len(spans) for spans in exports] == [count for _body, count in tracing.exports]
    assert len(tracing.spans) == 500


def test_more_events_than_the_sdk_keeps_by_default_are_kept() -> None:
    tracing = Tracing(capacity=1000)
    with tracing.span("update"):
        for index in range(500):
            tracing.log("x", index=index)
    tracing.work()
    assert len(tracing.spans[0].events) == 500


def test_user_may_use_the_span_as_any_opentelemetry_span() -> None:
    tracing = Tracing()
    with tracing.span("update") as span:
        assert get_current_span() is span
        span.set_attribute("mine", 7)
        span.set_status(Status())
    tracing.work()
    assert attributes(tracing.spans[0])["mine"] == 7


@pytest.mark.parametrize("name", [None, 3, "\ud800", "a\x1bb"])
def test_hostile_span_name_and_inputs_are_harmless(name: Any) -> None:
    tracing = Tracing()
    loop: list[Any] = []
    loop.append(loop)
    with tracing.span(name, loop=loop, huge=2**70, nothing=None):
        pass
    tracing.work()
    assert len(tracing.spans) == 1


def test_foreign_back_end_is_what_the_standard_variables_name() -> None:
    assert foreign_endpoint({}) is None
    assert foreign_endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}) == "http://collector:4318"
    assert (
        foreign_endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"})
        is None
    )
