"""The console sink: its look, its modes, and a terminal that stalls, breaks or closes."""

import fcntl
import io
import json
import math
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rltelemetry.extract import extract
from rltelemetry.labels import Labels
from rltelemetry.processors import normalize_category, sanitize
from rltelemetry.schema import Category
from rltelemetry.sinks.console import ConsoleSink, can_redraw, resolve_mode
from rltelemetry.sinks.console.render import dashboard_line, format_value, json_line
from rltelemetry.sinks.console.writer import LineWriter
from rltelemetry.types import Record
from rltelemetry.values import Unread, freeze

TIME_NS = 1_700_000_000_123_456_789
WAIT_S = 10.0
HUGE = pytest.param(10**5000, "<integer of 16610 bits>", id="huge")  # too large for pytest to print


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(event: str = "train", category: Category = Category.TRAINER, level: str = "info", **fields: Any) -> Record:
    return Record(TIME_NS, level, "trainers.ppo", event, category, fields)


def dashboard(shown: Record, color: bool = False) -> str:
    return dashboard_line(shown, Labels(), color)


class FixedClock:
    def time_ns(self) -> int:
        return TIME_NS

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        raise AssertionError


class StalledStream(io.StringIO):
    """A stream whose first write waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stalled = threading.Event()
        self.may_go_on = threading.Event()

    def write(self, text: str) -> int:
        self.is_stalled.set()
        assert self.may_go_on.wait(WAIT_S)
        return super().write(text)


def test_a_dashboard_line_has_time_category_event_and_labelled_values() -> None:
    line = dashboard(record(timesteps=2048, critic_loss=0.00031, some_key=1.5))
    assert line == "11-14 22:13:20  TRAINER    train  Timesteps: 2048 | Critic Loss: 0.00031 | Some Key: 1.5"


@pytest.mark.parametrize("category", Category)
def test_categories_have_one_width_and_a_colour_each(category: Category) -> None:
    assert dashboard(record("EVENT", category)).index("EVENT") == len("11-14 22:13:20  EVALUATOR  ")
    colors = {re.findall(r"\x1b\[\d+m", dashboard(record(category=each), color=True))[2] for each in Category}
    assert len(colors) == len(Category)


def test_an_event_without_fields_says_so() -> None:
    assert dashboard(record("starting", Category.MISC)) == "11-14 22:13:20  MISC       starting  No metrics"


def test_levels_other_than_info_are_visible() -> None:
    assert "MISC       WARNING  careful" in dashboard(record("careful", Category.MISC, "warning"))
    assert "\x1b[33mWARNING\x1b[0m" in dashboard(record(level="warning"), color=True)
    assert "\x1b[31mERROR\x1b[0m" in dashboard(record(level="error"), color=True)


def test_without_colour_there_is_no_control_character() -> None:
    assert dashboard(record(level="error", a=1)).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00031, "0.00031"), (1.2e-9, "1.2e-09"), (12345.7, "12345.7"), (1.23e12, "1.23e+12"), (1234567.8, "1234568"),
     (0.5, "0.5"), (100.0, "100"), (-2e6, "-2000000"), (1 / 3, "0.333333"), (math.nan, "nan"), (-math.inf, "-inf"),
     (2048, "2048"), (2**62, "4611686018427387904"), (None, "-"), (True, "true"), ("1h 2m", "1h 2m"),
     (10**400, "<integer of 1329 bits>"), HUGE, ("x" * 501, "x" * 500 + "...")],
)  # fmt: skip
def test_values_are_readable_at_any_magnitude(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_a_traceback_stands_indented_below_its_line() -> None:
    shown = record("failed", Category.MISC, "error", exception="Traceback:\nValueError: \x1b[0m", step=1)
    assert dashboard(shown).split("\n") == [
        "11-14 22:13:20  MISC       ERROR  failed  Step: 1",
        "    Traceback:",
        r"    ValueError: \x1b[0m",
    ]


def test_a_traceback_field_of_one_line_is_a_field() -> None:
    assert dashboard(record("failed", exception="boom")).endswith("failed  Exception: boom")


def test_an_event_with_thousands_of_fields_stays_a_line() -> None:
    line = dashboard(record(**{f"field_{number}": number for number in range(10_000)}))
    assert line.endswith(" | ... 9936 more")
    assert line.count(" | ") == 64


def test_a_json_line_holds_everything() -> None:
    assert json.loads(json_line(record(timesteps=3, loss=0.5, name="日本", none=None, yes=True))) == {
        "timestamp": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "logger": "trainers.ppo",
        "category": "TRAINER",
        "event": "train",
        "timesteps": 3,
        "loss": 0.5,
        "name": "日本",
        "none": None,
        "yes": True,
    }


def test_json_keeps_the_order_and_the_fixed_keys_first() -> None:
    assert list(json.loads(json_line(record(z=1, a=2)))) == [
        "timestamp", "level", "logger", "category", "event", "z", "a"
    ]  # fmt: skip


def test_json_has_no_control_character() -> None:
    assert json_line(record("\x7f\x85\n", **{"k\x7f": "\x00\x7f"})).isprintable()


def test_json_keys_never_collide() -> None:
    shown = Record(TIME_NS, "info", "x", "e", Category.MISC, {"level": 1, "level_": 2, "event": 3, "timestamp": 4})
    fields = json.loads(json_line(shown), object_pairs_hook=list)
    assert len({key for key, _ in fields}) == len(fields) == 9
    assert [key for key, _ in fields][5:] == ["level_", "level__", "event_", "timestamp_"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), HUGE,
     (Unread("<cuda tensor float32[]>", "on_device"), "<cuda tensor float32[]>"), (np.float32("inf"), "Infinity"),
     ([1], "[1]"), (2**70, 2**70)],
)  # fmt: skip
def test_every_value_is_valid_json(value: Any, expected: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(json_line(record(x=value)), parse_constant=refuse)["x"] == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedStream(io.StringIO):
    def isatty(self) -> bool:
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize(
    ("setting", "stream", "environ", "expected"),
    [
        ("auto", Terminal(), {}, ("dashboard", True)),
        ("auto", io.StringIO(), {}, ("json", False)),
        ("auto", ClosedStream(), {}, ("json", False)),
        ("auto", None, {}, ("off", False)),
        ("dashboard", None, {}, ("off", False)),
        ("off", Terminal(), {"FORCE_COLOR": "1"}, ("off", False)),
        ("json", Terminal(), {"FORCE_COLOR": "1"}, ("json", False)),
        ("dashboard", io.StringIO(), {}, ("dashboard", False)),
        ("dashboard", io.StringIO(), {"FORCE_COLOR": "1"}, ("dashboard", True)),
        ("auto", io.StringIO(), {"FORCE_COLOR": "1"}, ("dashboard", True)),
        ("auto", io.StringIO(), {"FORCE_COLOR": "0"}, ("json", False)),
        ("auto", Terminal(), {"FORCE_COLOR": "0"}, ("dashboard", False)),
        ("auto", Terminal(), {"NO_COLOR": "0"}, ("dashboard", False)),
        ("auto", Terminal(), {"NO_COLOR": ""}, ("dashboard", True)),
        ("auto", io.StringIO(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, ("dashboard", False)),
        ("auto", Terminal(), {"TERM": "dumb"}, ("dashboard", False)),
    ],
)
def test_the_mode_follows_setting_stream_and_environment(
    setting: str, stream: Any, environ: dict[str, str], expected: tuple[str, bool]
) -> None:
    assert resolve_mode(setting, stream, environ) == expected


@pytest.fixture
def make_sink() -> Iterator[Callable[..., ConsoleSink]]:
    sinks = []

    def make(stream: Any, mode: Any = "dashboard", has_footer: bool = False) -> ConsoleSink:
        sinks.append(ConsoleSink(stream, Labels(), mode, False, FixedClock(), has_footer))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close(1.0)


def test_committed_lines_reach_the_stream_in_order(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream)
    for number in range(1000):
        sink.emit(record(str(number)))
    sink.commit()
    assert sink.flush(WAIT_S)
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == [str(number) for number in range(1000)]


def test_close_writes_what_waits_and_ends_the_thread(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream)
    thread = sink._writer._thread
    assert (thread.name, thread.daemon) == ("rltelemetry-console", True)
    sink.emit(record("last"))
    assert sink.close(WAIT_S)
    assert "last" in stream.getvalue()
    assert not thread.is_alive()
    sink.emit(record("late"))
    sink.write("warning", "late")
    sink.commit()
    assert sink.flush(0.0)
    assert sink.close(0.0)
    assert "late" not in stream.getvalue()


def test_records_that_are_shown_elsewhere_are_not_shown(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream)
    sink.emit(Record(TIME_NS, "info", "x", "foreign", Category.MISC, {}, console=False))
    assert sink.close(WAIT_S)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("mode", "parse"), [("dashboard", str), ("json", lambda line: json.loads(line)["event"])])
def test_own_messages_look_like_events(
    make_sink: Callable[..., ConsoleSink], mode: str, parse: Callable[[str], str]
) -> None:
    stream = io.StringIO()
    sink = make_sink(stream, mode)
    sink.write("warning", "tunnel down\n http://u:secret@h")
    assert sink.flush(WAIT_S)
    [line] = stream.getvalue().splitlines()
    assert r"tunnel down\n http://***@h" in parse(line)
    assert "No metrics" not in line
    assert "warning" in line.lower()


def test_off_shows_warnings_of_the_pipeline_only(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream, "off")
    sink.emit(record("event"))
    sink.write("info", "started")
    sink.write("warning", "5 points wait")
    assert sink.close(WAIT_S)
    [line] = stream.getvalue().splitlines()
    assert "5 points wait" in line


def test_a_stalled_stream_never_stalls_the_caller_and_the_loss_is_told(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = StalledStream()
    sink = make_sink(stream)
    sink.emit(record("first"))
    sink.commit()
    assert stream.is_stalled.wait(WAIT_S)
    for number in range(10_000):
        sink.emit(record(str(number)))
        sink.commit()
    assert not sink.flush(0.01)
    stream.may_go_on.set()
    assert sink.flush(WAIT_S)
    lines = stream.getvalue().splitlines()
    assert "first" in lines[0]
    assert "WARNING  1808 console lines dropped: the terminal did not take them in time" in lines[1]
    assert [line.split()[3] for line in lines[2:]] == [str(number) for number in range(1808, 10_000)]


def test_the_bound_is_on_characters_too() -> None:
    stream = StalledStream()
    writer = LineWriter(stream, lambda count: f"{count} dropped", max_characters=100)
    writer.put("first", wake=True)
    assert stream.is_stalled.wait(WAIT_S)
    for number in range(5):
        writer.put(str(number) * 40)
    stream.may_go_on.set()
    assert writer.close(WAIT_S)
    assert stream.getvalue().splitlines() == ["first", "3 dropped", "3" * 40, "4" * 40]


def test_close_on_a_stalled_stream_keeps_its_bound() -> None:
    stream = StalledStream()
    writer = LineWriter(stream, str)
    writer.put("x", wake=True)
    assert stream.is_stalled.wait(WAIT_S)
    start = time.monotonic()
    assert not writer.close(0.05)
    assert time.monotonic() - start < 2.0
    stream.may_go_on.set()


class BreakingStream(io.StringIO):
    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.failures = list(errors)

    def write(self, text: str) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return super().write(text)


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "gone"), OSError(5, "hung up"), ValueError("closed"), KeyError()]
)
def test_a_stream_that_is_gone_ends_the_sink_in_silence(error: Exception) -> None:
    stream = BreakingStream(error)
    writer = LineWriter(stream, str)
    writer.put("x", wake=True)
    assert writer.flush(WAIT_S)
    writer.put("y", wake=True)
    assert writer.close(WAIT_S)
    assert stream.getvalue() == ""


def test_a_full_disk_is_survived_and_the_loss_is_told() -> None:
    stream = BreakingStream(OSError(28, "No space left"), OSError(28, "No space left"))
    writer = LineWriter(stream, lambda count: f"{count} dropped")
    for line in ["a", "b", "c"]:
        writer.put(line)
        writer.put(line)
        assert writer.flush(WAIT_S)
    writer.close(WAIT_S)
    assert stream.getvalue().splitlines() == ["4 dropped", "c", "c"]


def test_lines_that_were_written_do_not_count_against_the_bound() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream, lambda count: f"{count} dropped", max_lines=2, max_characters=100)
    for number in range(10):
        writer.put(str(number) * 40)
        writer.put(str(number) * 40)
        assert writer.flush(WAIT_S)
    writer.close(WAIT_S)
    assert stream.getvalue() == "".join(f"{str(number) * 40}\n" * 2 for number in range(10))


class SignallingStream(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.is_written = threading.Event()

    def write(self, text: str) -> int:
        self.is_written.set()
        return super().write(text)


def test_own_messages_do_not_wait_for_the_end_of_a_drain(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = SignallingStream()
    make_sink(stream).write("warning", "now")
    assert stream.is_written.wait(WAIT_S)


def test_events_wait_for_the_end_of_a_drain_unless_they_are_many(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = SignallingStream()
    sink = make_sink(stream)
    sink.emit(record("one"))
    assert not stream.is_written.wait(0.02)
    for number in range(1000):
        sink.emit(record(str(number)))
    assert stream.is_written.wait(WAIT_S)


def test_characters_that_the_stream_cannot_encode_are_escaped() -> None:
    class Ascii(io.TextIOWrapper):  # not exactly a TextIOWrapper: written through Python
        pass

    for kind in [Ascii, io.TextIOWrapper]:
        with os.fdopen(os.memfd_create("out"), "w+b", buffering=0) as raw:
            stream = kind(raw, encoding="ascii")  # type: ignore[type-var]
            writer = LineWriter(stream, str)
            writer.put("日本", wake=True)
            assert writer.close(WAIT_S)
            assert os.pread(raw.fileno(), 100, 0) == b"\\u65e5\\u672c\n"


def read_until(descriptor: int, end: bytes) -> bytes:
    received = b""
    while end not in received:
        assert select.select([descriptor], [], [], WAIT_S)[0], received[-200:]
        received += os.read(descriptor, 65_536)
    return received


@pytest.fixture
def terminal() -> Iterator[tuple[int, Any]]:
    reader, writer = pty.openpty()
    stream = os.fdopen(writer, "w")
    yield reader, stream
    os.close(reader)
    stream.close()


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_terminal_that_nobody_reads_stalls_nobody_and_loses_nothing(
    terminal: tuple[int, Any], is_blocking: bool, make_sink: Callable[..., ConsoleSink]
) -> None:
    reader, stream = terminal
    os.set_blocking(stream.fileno(), is_blocking)
    sink = make_sink(stream)
    for number in range(3000):  # far more than the terminal's buffer holds
        sink.emit(record(f"event-{number}"))
    sink.commit()
    assert not sink.flush(0.05)
    text = read_until(reader, b"event-2999  No metrics\r\n").decode()
    assert re.findall(r"event-(\d+)", text) == [str(number) for number in range(3000)]
    assert sink.flush(WAIT_S)


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, False),
        (ClosedStream(), {}, False),
        (None, {}, False),
    ],
)
def test_a_line_can_be_redrawn_on_terminals_only(stream: Any, environ: dict[str, str], expected: bool) -> None:
    assert can_redraw(stream, environ) is expected


WIPE = "\r\x1b[2K"


def test_progress_stays_below_the_lines_and_goes_at_the_end(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream, has_footer=True)
    for text, event in [("10 %", "first"), ("10 %", "second"), ("20 %", None)]:
        sink.show_progress(text)
        assert sink.flush(WAIT_S)
        if event:
            sink.emit(record(event))
            sink.commit()
            assert sink.flush(WAIT_S)
    sink.close(WAIT_S)
    first, second = (dashboard(record(event)) for event in ("first", "second"))
    assert stream.getvalue() == (f"10 %{WIPE}{first}\n10 %{WIPE}{second}\n10 %{WIPE}20 %{WIPE}")


@pytest.mark.parametrize(("mode", "has_footer"), [("dashboard", False), ("json", True), ("off", True)])
def test_progress_is_for_dashboards_on_terminals(
    mode: str, has_footer: bool, make_sink: Callable[..., ConsoleSink]
) -> None:
    stream = io.StringIO()
    sink = make_sink(stream, mode, has_footer)
    sink.show_progress("10 %")
    sink.close(WAIT_S)
    assert stream.getvalue() == ""


def test_progress_never_wraps_and_holds_no_control_character(
    terminal: tuple[int, Any], make_sink: Callable[..., ConsoleSink]
) -> None:
    reader, stream = terminal
    fcntl.ioctl(stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    sink = make_sink(stream, has_footer=True)
    sink.show_progress("a\x1b[2Jb\n" + 100 * "x")
    assert sink.flush(WAIT_S)
    assert os.read(reader, 1000).decode() == "a\\x1b[2Jb\\n" + 8 * "x"


def test_progress_waits_for_no_stalled_terminal(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = StalledStream()
    sink = make_sink(stream, has_footer=True)
    for number in range(10_000):
        sink.show_progress(str(number))
    stream.may_go_on.set()
    assert sink.flush(WAIT_S)
    assert stream.getvalue().endswith("9999")
    assert len(stream.getvalue()) < 1000


def test_a_pipe_without_reader_ends_in_silence(make_sink: Callable[..., ConsoleSink]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        sink = make_sink(stream)
        sink.emit(record("lost"))
        sink.commit()
        assert sink.flush(WAIT_S)


def test_a_closed_stream_ends_in_silence(make_sink: Callable[..., ConsoleSink]) -> None:
    with os.fdopen(os.memfd_create("out"), "w") as stream:
        sink = make_sink(stream)
    sink.write("warning", "lost")
    assert sink.flush(WAIT_S)


EXIT_WITH_A_STALLED_TERMINAL = """
import os, pty, sys, time
from rltelemetry.labels import Labels
from rltelemetry.sinks.console import ConsoleSink
master, slave = pty.openpty()
os.dup2(slave, 2)
sink = ConsoleSink(sys.stderr, Labels(), "dashboard")
for number in range(3000):
    sink.write("warning", "line" * 10)
stalled = not sink.close(0.2)
sys.exit(7 if stalled else 1)
"""


def test_a_stalled_terminal_does_not_change_how_the_program_exits() -> None:
    done = subprocess.run([sys.executable, "-c", EXIT_WITH_A_STALLED_TERMINAL], timeout=60, check=False)
    assert done.returncode == 7


FORK_BESIDE_A_STALLED_TERMINAL = """
import os, pty, sys, threading
from rltelemetry.labels import Labels
from rltelemetry.sinks.console import ConsoleSink
read, write = os.pipe()
master, slave = pty.openpty()
parent = ConsoleSink(os.fdopen(slave, "w"), Labels(), "dashboard")
for number in range(3000):
    parent.write("warning", "line" * 10)
parent._writer._state.acquire()  # a fork may come while any thread holds it
child = os.fork()
if child == 0:
    parent.write("warning", "x"); parent.commit(); parent.flush(60); parent.close(60)
    sink = ConsoleSink(open(write, "w"), Labels(), "dashboard")
    sink.write("warning", "from the child")
    os._exit(0 if sink.close(10) else 1)
parent._writer._state.release()
status = os.waitpid(child, 0)[1]
sys.exit(os.waitstatus_to_exitcode(status) or (b"from the child" not in os.read(read, 1000)))
"""


def test_a_forked_child_writes_through_its_own_sink_and_ignores_the_inherited_one() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_BESIDE_A_STALLED_TERMINAL], timeout=60, check=False
    )
    assert done.returncode == 0


def test_threads_may_write_at_once(make_sink: Callable[..., ConsoleSink]) -> None:
    stream = io.StringIO()
    sink = make_sink(stream)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: sink.write("warning", f"message-{number}."), range(2000)))
    assert sink.flush(WAIT_S)
    lines = stream.getvalue().splitlines()
    assert sorted(int(line.rpartition("-")[2][:-1]) for line in lines) == list(range(2000))


class Hostile:
    """Raises from whatever is asked of it."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"\x1b[31m{name}\n")

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __float__ = __int__ = __index__ = __str__ = __iter__ = __len__ = __repr__  # type: ignore[assignment]


LOOP: list[Any] = ["\x1b"]
LOOP.append(LOOP)
ODDITIES: list[Any] = [
    Hostile("a"), LOOP, 10**5000, Decimal("sNaN"), Decimal("1e999999"), 1j, "\n\x1b[2J\x00\x7f\x85\u2028\ud800",
    b"\xff\n\x1b", np.float32("inf"), np.zeros(0), np.bool_(True),
    ValueError("two\nlines"), "token=abc", {"a\n": Hostile("b")}, True, float("inf"), 2**64, "x" * 10_000,
]  # fmt: skip


class Oddity(NamedTuple):
    """Stands for one of the oddities, since hypothesis has to show its examples."""

    index: int


FIELD_NAMES = st.text(max_size=20) | st.sampled_from(
    [
        "timesteps",
        "step",
        "category",
        "telemetry",
        "level",
        "timestamp",
        "loss",
        "password",
        "a\n",
        "a\x1b",
        "name " * 99,
    ]
)
FIELD_VALUES = (
    st.integers(0, len(ODDITIES) - 1).map(Oddity)
    | st.text(max_size=30)
    | st.floats()
    | st.integers()
    | st.none()
    | st.binary(max_size=20)
)
EVENTS = st.tuples(FIELD_VALUES, st.dictionaries(FIELD_NAMES, FIELD_VALUES, max_size=4))
BATCHES = st.lists(EVENTS, min_size=100, max_size=100)


def value_of(drawn: Any) -> Any:
    return ODDITIES[drawn.index] if isinstance(drawn, Oddity) else drawn


def through_the_chain(event: Any, fields: dict[str, Any]) -> Record:
    frozen = {key: freeze(value_of(value)) for key, value in (fields | {"event": event}).items()}
    clean = dict(sanitize(None, "info", normalize_category(None, "info", frozen)))
    name, category = clean.pop("event"), Category(clean.pop("category"))
    return Record(TIME_NS, "info", "test", name, category, clean)


@settings(max_examples=100, suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate])
@given(BATCHES)
def test_ten_thousand_hostile_events_make_one_clean_line_each(batch: list[Any]) -> None:
    for mode in ["dashboard", "json"]:
        stream = io.StringIO()
        sink = ConsoleSink(stream, Labels(), mode)  # type: ignore[arg-type]
        for event, fields in batch:
            shown = through_the_chain(event, fields)
            points, refusals = extract(shown)
            assert len(points) + len(refusals) <= len(fields)
            sink.emit(shown)
        sink.commit()
        assert sink.close(WAIT_S)
        text = stream.getvalue()
        lines = [line for line in text.splitlines() if not line.startswith("    ")]  # tracebacks are indented
        assert len(lines) == len(batch)
        assert text.count("\n") == len(text.splitlines())
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
        if mode == "json":
            assert len(text.splitlines()) == len(batch)
            assert all(isinstance(json.loads(line), dict) for line in lines)
