"""The caller's side: whatever is logged, nothing is raised, nothing waits, and the queue holds what was meant."""

import asyncio
import copy
import pickle
import threading
import time

import numpy as np
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN, get_current_span, use_span
from structlog.processors import KeyValueRenderer

from rltelemetry import channels, loggers
from rltelemetry.chain import to_record
from rltelemetry.current_span import NO_CONTEXT, SPAN_KEY, read_span_context
from rltelemetry.handoff import BOUND_VARIABLES, CELL, ON_FOREIGN_SPAN, Handoff, Snapshot, contextvars_may_change
from rltelemetry.spans import add_foreign_event


@pytest.fixture
def handoff() -> Handoff:
    made = Handoff(64, 1 << 20, set(), add_foreign_event)
    CELL.active = made
    chain = structlog.get_config()["processors"]
    chain[:] = [loggers.HANDOFF]
    structlog.configure(
        processors=chain,
        wrapper_class=loggers.assemble,  # type: ignore[arg-type]
        logger_factory=channels.channel,
        cache_logger_on_first_use=True,
    )
    return made


def taken(handoff: Handoff) -> list[Snapshot]:
    items = [Snapshot._make(item) for item in handoff.queue]
    handoff.queue.clear()
    return items


def only(handoff: Handoff) -> Snapshot:
    (snapshot,) = taken(handoff)
    return snapshot


def test_call_leaves_one_stamped_snapshot(handoff: Handoff) -> None:
    before = time.time_ns()
    structlog.get_logger("train.loop").info("train", category="TRAINER", critic_loss=0.5, timesteps=100)
    snapshot = only(handoff)
    assert before <= snapshot.time_ns <= time.time_ns()
    assert (snapshot.level, snapshot.logger, snapshot.event) == ("info", "train.loop", "train")
    assert snapshot.fields == {"category": "TRAINER", "critic_loss": 0.5, "timesteps": 100}
    assert snapshot.extra_bytes == 0


def test_unnamed_logger_is_named_after_the_module_that_uses_it(handoff: Handoff) -> None:
    structlog.get_logger().info("x")
    assert only(handoff).logger == __name__


class Raising:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Recursive(list[object]):
    pass


def hostile_values() -> list[object]:
    loop: list[object] = Recursive()
    loop.append(loop)
    return [Raising(), loop, 10**400, float("nan"), b"\xff", "\ud800", object(), {"a": {"b": [1]}}, 1 + 2j, range(3)]


@pytest.mark.parametrize("value", hostile_values(), ids=lambda value: type(value).__name__)
def test_hostile_value_is_handed_over_and_nothing_is_raised(handoff: Handoff, value: object) -> None:
    structlog.get_logger().info("x", value=value, good=1.0)
    assert only(handoff).fields["good"] == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.info("bad %d", "x"),
        lambda log: log.info("lone %"),
        lambda log: log.info("too few %s %s", 1),  # noqa: PLE1206 - that is the point
        lambda log: log.info("mapping %(a)s", {"a": 1}),
        lambda log: log.info(),
        lambda log: log.info(Raising()),
        lambda log: log.info("x", event=1),
        lambda log: log.info("x", self=1),
        lambda log: log.info("x", method_name=1),
        lambda log: log.info("x", level="high"),
        lambda log: log.info("x", exc_info="nonsense"),
        lambda log: log.exception("outside a handler"),
        lambda log: log.log("not a level", "x"),
        lambda log: log.bind(event=2).info("x"),
    ],
)
def test_hostile_call_is_handed_over_and_nothing_is_raised(handoff: Handoff, call: object) -> None:
    call(structlog.get_logger())  # type: ignore[operator]
    only(handoff)


def test_percent_arguments_are_applied_and_bad_ones_are_shown(handoff: Handoff) -> None:
    log = structlog.get_logger()
    log.info("%s of %d", "one", 2)
    log.info("%(a)s", {"a": 7})
    log.info("bad %d", "x")
    log.info("lone %")
    assert [snapshot.event for snapshot in taken(handoff)] == ["one of 2", "7", "bad %d ('x')", "lone %"]


def test_mutable_value_is_fixed_at_the_call(handoff: Handoff) -> None:
    array, zero_d, names = np.zeros((2, 3), np.float32), np.array(1.5), ["a"]
    structlog.get_logger().info("x", array=array, zero_d=zero_d, names=names)
    zero_d += 1
    names.append("b")
    fields = only(handoff).fields
    assert fields["zero_d"] == 1.5
    assert fields["array"] == "float32[2, 3]"
    assert fields["names"] == "['a']"


def test_thousand_element_array_costs_less_than_20_us(handoff: Handoff) -> None:
    array, log = np.zeros(1000), structlog.get_logger()
    log.info("warm", array=array)
    costs = []
    for _ in range(50):
        start = time.perf_counter()
        log.info("x", array=array)
        costs.append(time.perf_counter() - start)
    assert min(costs) < 20e-6


def test_exception_text_is_made_in_the_caller_and_frees_the_exception(handoff: Handoff) -> None:
    log = structlog.get_logger()
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.exception("failed", exc_info=error)
        log.error("again", exc_info=True)
    for snapshot in taken(handoff):
        assert "ValueError: broken" in snapshot.fields["exception"]
        assert "exc_info" not in snapshot.fields
        assert snapshot.level == "error"


@pytest.mark.parametrize("order", [True, 1])
def test_orders_for_a_traceback_are_obeyed_and_are_no_fields(handoff: Handoff, order: object) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().error("x", exc_info=order, stack_info=order, rank=0)
    fields = only(handoff).fields
    assert "ValueError: broken" in fields.pop("exception")
    assert "test_orders_for_a_traceback" in fields.pop("stack").splitlines()[-2]
    assert fields == {"rank": 0}


@pytest.mark.parametrize("order", [0, 2, 1.5, "yes", None])
def test_order_that_is_none_gives_no_field(handoff: Handoff, order: object) -> None:
    structlog.get_logger().info("x", exc_info=order, loss=0.5)
    assert to_record(only(handoff)).fields == {"loss": 0.5}


def test_bound_fields_and_contextvars_travel_with_the_event(handoff: Handoff) -> None:
    log = structlog.get_logger().bind(seed=1)
    structlog.contextvars.bind_contextvars(task="CartPole-v1")
    log.info("x")
    structlog.contextvars.clear_contextvars()
    log.new(other=2).unbind("other").info("y")
    first, second = taken(handoff)
    assert first.bound == {"seed": 1}
    assert [value for var, value in first.contextvars.items() if var.name == "structlog_task"] == ["CartPole-v1"]
    assert second.bound == {}


def test_mutable_context_variable_is_fixed_at_the_call(handoff: Handoff) -> None:
    step, log = np.zeros((), int), structlog.get_logger()
    with structlog.contextvars.bound_contextvars(timesteps=step, task="CartPole-v1", seed=3):
        for index in range(3):
            step += 1
            log.info("train", loss=index)
        log.bind(timesteps=7).info("own")
        step += 1
    records = [to_record(snapshot) for snapshot in taken(handoff)]
    assert [record.fields["timesteps"] for record in records] == [1, 2, 3, 7]
    assert all((record.fields["task"], record.fields["seed"]) == ("CartPole-v1", 3) for record in records)


def test_structlogs_context_variables_are_found() -> None:
    with structlog.contextvars.bound_contextvars(found=[1]):
        assert "structlog_found" in BOUND_VARIABLES
        assert contextvars_may_change()
    assert not contextvars_may_change()


def test_unbound_and_plain_context_variables_leave_a_call_on_the_short_way(handoff: Handoff) -> None:
    with structlog.contextvars.bound_contextvars(task="CartPole-v1", gone=[1]):
        structlog.contextvars.unbind_contextvars("gone")
        structlog.get_logger().info("x", rank=0)
    structlog.get_logger().info("y", done=1)
    assert [snapshot.extra_bytes for snapshot in taken(handoff)] == [0, 0]


def test_async_methods_hand_over_too(handoff: Handoff) -> None:
    asyncio.run(structlog.get_logger().ainfo("x", a=1))
    assert only(handoff).fields == {"a": 1}


def test_level_is_read_live_also_by_a_cached_logger(handoff: Handoff) -> None:
    log = structlog.get_logger("noisy")
    log.debug("hidden")
    channels.set_thresholds(lambda name: 10 if name == "noisy" else 50)
    log.debug("shown")
    structlog.get_logger("quiet").error("hidden")
    assert [snapshot.event for snapshot in taken(handoff)] == ["shown"]


def test_full_queue_drops_the_newest_and_counts_exactly(handoff: Handoff) -> None:
    log = structlog.get_logger()
    for index in range(100):
        log.info("x", index=index)
    assert [snapshot.fields["index"] for snapshot in taken(handoff)] == list(range(64))
    assert handoff.take_drops() == {"full": 36}
    assert handoff.take_drops() == {}


def test_large_values_are_bounded_by_bytes(handoff: Handoff) -> None:
    log = structlog.get_logger()
    for _ in range(20):
        log.info("x", text="a" * 100_000)
    held = sum(len(snapshot.fields["text"]) for snapshot in taken(handoff))
    assert held <= 1 << 20
    assert handoff.take_drops()["full"] == 20 - held // 100_000


def test_worker_is_woken_once_when_the_queue_is_half_full(handoff: Handoff) -> None:
    woken: list[int] = []
    handoff.wake = lambda: woken.append(len(handoff.queue))
    for _ in range(64):
        structlog.get_logger("x").info("x")
    assert woken == [32]


def test_order_is_kept_per_thread(handoff: Handoff) -> None:
    handoff._capacity = handoff.watermark = 10_000
    log = structlog.get_logger()

    def work(thread: int) -> None:
        for index in range(500):
            log.info("x", thread=thread, index=index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshots = taken(handoff)
    for number in range(4):
        assert [s.fields["index"] for s in snapshots if s.fields["thread"] == number] == list(range(500))


def test_capture_logs_sees_events_of_cached_and_new_loggers(handoff: Handoff) -> None:
    log = structlog.get_logger()
    log.info("before")
    with structlog.testing.capture_logs() as captured:
        log.info("inside", a=1)
        structlog.get_logger("new").warning("first used inside")
    log.info("after")
    assert captured == [
        {"event": "inside", "a": 1, "log_level": "info"},
        {"event": "first used inside", "log_level": "warning"},
    ]
    assert [snapshot.event for snapshot in taken(handoff)] == ["before", "after"]


def test_logger_bound_before_configure_reaches_the_pipeline() -> None:
    early = structlog.get_logger().bind(a=1)
    made = Handoff(64, 1 << 20, set(), add_foreign_event)
    CELL.active = made
    structlog.get_config()["processors"][:] = [loggers.HANDOFF]
    early.info("x", b=2)
    snapshot = only(made)
    assert (snapshot.event, snapshot.fields) == ("x", {"a": 1, "b": 2})


def test_bound_logger_survives_pickle_and_deepcopy(handoff: Handoff) -> None:
    log = structlog.get_logger("worker").bind(rank=3)
    for twin in (pickle.loads(pickle.dumps(log)), copy.deepcopy(log)):
        twin.info("x", a=1)
        snapshot = only(handoff)
        assert (snapshot.logger, snapshot.bound, snapshot.fields) == ("worker", {"rank": 3}, {"a": 1})


def test_call_without_a_pipeline_is_shown_and_harmless(handoff: Handoff) -> None:
    shown: list[tuple[object, ...]] = []
    CELL.active = None
    CELL.fallback = lambda *event: shown.append(event)
    structlog.get_logger("late").bind(a=1).info("x", b=2)
    assert shown == [("info", "late", "x", {"a": 1, "b": 2})]


def test_event_on_a_foreign_span_is_added_in_the_caller(handoff: Handoff) -> None:
    span = TracerProvider().get_tracer("theirs").start_span("theirs")
    with use_span(span):
        structlog.get_logger().info("x", loss=0.5, huge=2**70, nothing=None)
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [  # type: ignore[attr-defined]
        ("x", {"loss": 0.5, "huge": str(2**70)})
    ]
    assert only(handoff).span is ON_FOREIGN_SPAN


def test_text_and_time_on_a_foreign_span_are_those_of_a_point(handoff: Handoff) -> None:
    """No secret in the text, however long it is, and the stamp that the event came with."""
    span = TracerProvider().get_tracer("theirs").start_span("theirs")
    with use_span(span):
        structlog.get_logger().info("password=hunter2")
        structlog.get_logger().info("password=hunter2 " + "x" * 300)
        handoff.put("info", "x", "stamped", {}, {}, stamp_ns=5)
    first, second, third = span.events  # type: ignore[attr-defined]
    assert "hunter2" not in first.name + second.name
    assert (third.name, third.timestamp) == ("stamped", 5)
    assert [event.timestamp for event in (first, second)] == [item[0] for item in list(handoff.queue)[:2]]


def test_current_span_is_what_opentelemetry_says_it_is() -> None:
    def current() -> object:
        return read_span_context(NO_CONTEXT).get(SPAN_KEY, INVALID_SPAN)

    assert read_span_context.__name__ == "get", "the context variable was not found, and the slow way is taken"
    assert current() is INVALID_SPAN
    span = TracerProvider().get_tracer("x").start_span("x")
    with use_span(span):
        assert current() is get_current_span() is span
    assert current() is INVALID_SPAN


def test_tee_feeds_the_pipeline_from_a_foreign_chain_and_leaves_the_event_alone(handoff: Handoff) -> None:
    rendered: list[str] = []
    log = structlog.wrap_logger(
        structlog.testing.CapturingLogger(),
        processors=[loggers.Tee(), KeyValueRenderer(), lambda *call: rendered.append(call[2]) or ""],
        wrapper_class=structlog.BoundLogger,
    )
    log.warning("x", a=1, logger="mine")
    snapshot = only(handoff)
    assert (snapshot.level, snapshot.logger, snapshot.event, snapshot.fields["a"]) == ("warning", "mine", "x", 1)
    assert not snapshot.console
    assert rendered == ["a=1 logger='mine' event='x'"]
