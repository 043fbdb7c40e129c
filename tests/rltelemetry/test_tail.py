"""`rltelemetry tail`: curves drawn right, points seen as they pass, and what is said of delivery."""

import math
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import rltelemetry
from rltelemetry import cli, server
from rltelemetry.errors import SettingsError
from rltelemetry.labels import Labels
from rltelemetry.places import state_directory
from rltelemetry.settings import resolve
from rltelemetry.sinks.mlflow import SpoolFile, Waiting, make_loop
from rltelemetry.tail import Board, Series, Size, Target, Watch, find_target, frame, sparkline
from rltelemetry.testing import FakeMlflow, MlflowServer
from rltelemetry.types import MetricPoint

NOW_MS = 1_700_000_000_000


def run(work: Any) -> Any:
    import asyncio

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work)


def dead_uri() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 10, ""),
        ([1.0], 10, "▁"),
        ([5.0, 5.0, 5.0], 10, "▁▁▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 10, "▁▂▃▄▅▆▇█"),
        ([7.0, 0.0], 10, "█▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4, "▁▃▆█"),  # means 0.5, 2.5, 4.5, 6.5
        ([0.0, math.nan, 1.0], 10, "▁x█"),
        ([math.nan, math.nan], 10, "xx"),
        ([-1e308, 1e308], 10, "▁█"),
    ],
)
def test_sparkline(values: list[float], width: int, drawn: str) -> None:
    assert sparkline(values, width) == drawn


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), max_size=300), st.integers(1, 60))
def test_sparkline_is_total_and_fits(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


def points(*triples: tuple[int, float, int]) -> list[MetricPoint]:
    return [MetricPoint("trainer/loss", value, step, NOW_MS + ms) for step, value, ms in triples]


def test_series_is_ordered_by_step_and_counts_equal_points_once() -> None:
    series = Series()
    for point in points((3, 30.0, 3), (1, 10.0, 1), (2, 20.0, 2), (3, 30.0, 3), (1, 10.0, 1)):
        series.add(point)
    assert series.values == [10.0, 20.0, 30.0]
    assert series.latest.step == 3


def test_series_forgets_the_oldest_but_where_it_began() -> None:
    series = Series()
    for step in range(2000):
        series.add(MetricPoint("a", float(step), step, NOW_MS + step))
    assert (len(series.values), series.values[0], series.values[1], series.values[-1]) == (512, 0.0, 1489.0, 1999.0)


def test_rate_is_that_of_the_last_minute() -> None:
    series = Series()
    for point in points((0, 0.0, 0), (1000, 0.0, 100_000), (3000, 0.0, 110_000), (5000, 0.0, 120_000)):
        series.add(point)
    assert series.steps_per_second(NOW_MS + 120_000) == 200.0
    assert series.steps_per_second(NOW_MS + 300_000) == 0.0


def test_frame_shows_labels_values_trends_and_delivery() -> None:
    board = Board("ppo seed 1", "http://host/#/runs/1", "RUNNING", True, Waiting(points=1204, traces=1))
    board.problem = "connection refused. The SSH tunnel is down."
    for step in range(8):
        now_ms = NOW_MS + 1000 * step
        board.add([MetricPoint("trainer/critic_loss", 7.0 - step, 100 * step, now_ms)])
        board.add([MetricPoint("actor/mean_return", float(step), 100 * step, now_ms)])
    board.add([MetricPoint("system/cpu_utilization_percentage", 50.0, 0, NOW_MS)])
    lines = frame(board, Labels(), Size(80, 24), NOW_MS + 7000)
    assert lines == [
        "ppo seed 1  RUNNING  http://host/#/runs/1",
        "1204 points, 1 span wait on disk. MLflow does not answer: connection refused. The SSH tunnel is down."[:80],
        "",
        "TRAINER             latest  trend                                 step   steps/s",
        "  Critic Loss            0  █▇▆▅▄▃▂▁                               700       100",
        "",
        "ACTOR               latest  trend                                 step   steps/s",
        "  Return (mean)          7  ▁▂▃▄▅▆▇█                               700       100",
        "",
        "SYSTEM              latest  trend                                 step   steps/s",
        "  Cpu Utilizati         50  ▁                                        0         0",
    ]


@pytest.mark.parametrize(
    ("owner", "waiting", "line"),
    [
        (None, Waiting(), "From MLflow."),
        (True, Waiting(), "Nothing waits on disk."),
        (True, Waiting(points=1), "1 point waits on disk."),
        (False, Waiting(2, 0, 1), "2 points, 1 other item wait on disk. Its process has ended. Send the rest: {sync}."),
        (False, Waiting(), "Nothing waits on disk. Its process has ended."),
    ],
)
def test_delivery_in_words(owner: bool | None, waiting: Waiting, line: str) -> None:
    said = frame(Board("x", owner=owner, waiting=waiting), Labels(), Size(200), NOW_MS)[1]
    assert said == line.format(sync="rltelemetry sync")


def test_terminal_without_unicode_gets_ascii() -> None:
    board = Board("x")
    board.add(points((0, 0.0, 0), (1, 1.0, 1)))
    text = "\n".join(frame(board, Labels(), Size(80, 24, is_unicode=False), NOW_MS))
    assert text.isascii()
    assert "_@" in text


def test_what_does_not_fit_is_counted() -> None:
    board = Board("x")
    board.add([MetricPoint(f"trainer/{name}", 1.0, 1, NOW_MS) for name in "abcdefghij"])
    lines = frame(board, Labels(), Size(80, 8), NOW_MS)
    assert len(lines) == 8
    assert lines[-1].startswith("... 7 more lines")


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=300), st.floats(allow_nan=True), st.integers(0, 10**18)), max_size=20
    ),
    st.integers(1, 200),
    st.integers(1, 50),
)
def test_frame_is_total_and_fits(triples: list[tuple[str, float, int]], columns: int, lines: int) -> None:
    board = Board("title\x1b[31m", problem="bad\nnews")
    board.add([MetricPoint(key, value, step, NOW_MS) for key, value, step in triples])
    drawn = frame(board, Labels(), Size(columns, lines), NOW_MS)
    assert 0 < len(drawn) <= lines
    assert all(len(line) <= columns for line in drawn)
    assert not any(character in "\n\r\x1b\x7f\x9b" or character < " " for line in drawn for character in line)


TRAINING = """
import os, sys, time, rltelemetry, structlog
telemetry = rltelemetry.configure(
    console="off", system_metrics=False, run_name="the run", exit_timeout_s=30.0, **{fields!r}
)
log = structlog.get_logger()
for step in range({count}):
    log.info("train", category="TRAINER", loss=float(step), timesteps=step)
    time.sleep({pause_s})
print("ready", flush=True)
sys.stdin.readline()
{end}
"""


class Training:
    """A process that logs, says so, and ends when it is told to."""

    def __init__(self, count: int, pause_s: float = 0.0, end: str = "telemetry.close()", **fields: Any) -> None:
        program = TRAINING.format(count=count, pause_s=pause_s, end=end, fields=fields)
        self._process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def wait_until_logged(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def let_end(self) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_error: object) -> None:
        self.let_end()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def board_of(target: Target) -> Board:
    boards: list[Board] = []

    async def look() -> None:
        watch = Watch(target, resolve({"request_timeout_s": 10.0}, {}), boards.append)
        await watch.once()
        await watch.close()

    run(look())
    return boards[-1]


def the_target(wish: str | None = None, **fields: Any) -> Target:
    found: Target = run(find_target(wish, resolve(fields, {}).settings))
    return found


def wait_for_spool(count: int) -> None:
    deadline = time.monotonic() + 30
    while board_of(the_target()).waiting.points < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_run_without_any_server_is_seen_from_its_spool() -> None:
    with Training(30, tracking_uri=dead_uri(), end="os._exit(0)") as training:
        training.wait_until_logged()
        wait_for_spool(30)
        board = board_of(the_target())
        assert (board.title, board.owner, board.waiting.points) == ("the run", True, 30)
        assert board.series["trainer/loss"].values == [float(step) for step in range(30)]
        assert "connection refused" in board.problem
        assert not board.is_over
        training.let_end()
    board = board_of(the_target())
    assert (board.owner, board.is_over, board.waiting.points) == (False, True, 30)


def test_points_are_seen_as_they_pass_and_the_end_is_noticed(fake_mlflow: FakeMlflow) -> None:
    boards: list[tuple[int, bool | None, str]] = []

    def show(board: Board) -> None:
        series = board.series.get("trainer/loss")
        boards.append((len(series.values) if series else 0, board.owner, board.status))
        if series and series.latest.step == 39:
            training.let_end()

    with Training(40, pause_s=0.05, tracking_uri=fake_mlflow.uri) as training:
        deadline = time.monotonic() + 30
        while not SpoolFile.all_in(state_directory()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

        async def follow() -> None:
            watch = Watch(await find_target(None, resolve({}, {}).settings), resolve({}, {}), show)
            await watch.follow()
            await watch.close()

        run(follow())
    counts = [count for count, _, _ in boards]
    assert counts == sorted(counts)
    assert len(set(counts)) > 4, "it was seen growing"
    assert boards[-1] == (40, False, "FINISHED")


def test_run_is_seen_from_mlflow_alone(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run("elsewhere")
    metrics = [
        {"key": "trainer/loss", "value": float(step), "step": step, "timestamp": NOW_MS + step} for step in range(500)
    ]
    any_mlflow.ask("POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run_id, "metrics": metrics})
    for wish in (run_id, f"{any_mlflow.uri}/#/experiments/0/runs/{run_id}"):
        target = the_target(wish, tracking_uri=any_mlflow.uri)
        assert (target.spool, target.run_id, target.tracking_uri) == (None, run_id, any_mlflow.uri)
    board = board_of(target)
    assert (board.title, board.status, board.owner) == ("elsewhere", "RUNNING", None)
    assert board.url == f"{any_mlflow.uri}/#/experiments/0/runs/{run_id}"
    values = board.series["trainer/loss"].values
    assert (values[0], values[-1], values == sorted(values)) == (0.0, 499.0, True)
    assert 100 < len(values) <= 201


def test_server_that_is_gone_is_named_with_its_remedy(fake_mlflow: FakeMlflow) -> None:
    run_id = fake_mlflow.create_run("x")
    target = the_target(run_id, tracking_uri=fake_mlflow.uri)
    fake_mlflow.stop()
    board = board_of(target)
    assert "tunnel is down" in board.problem
    assert not board.is_over


def test_credentials_stay_with_the_server_that_they_are_for(fake_mlflow: FakeMlflow) -> None:
    resolved = resolve({}, {"MLFLOW_TRACKING_URI": "http://other:5000", "MLFLOW_TRACKING_TOKEN": "t0ken"})
    target = Target(None, fake_mlflow.create_run("x"), fake_mlflow.uri)

    async def look() -> None:
        watch = Watch(target, resolved, lambda _board: None)
        await watch.once()
        await watch.close()

    run(look())
    assert fake_mlflow.requests
    assert all("authorization" not in request.headers for request in fake_mlflow.requests)


def leave_a_spool(uri: str, run_name: str, **fields: Any) -> Path:
    before = set(SpoolFile.all_in(state_directory()))
    with rltelemetry.configure(
        tracking_uri=uri, run_name=run_name, console="off", system_metrics=False, exit_timeout_s=0.2, **fields
    ):
        structlog.get_logger().info("x", loss=1.0, step=1)
    known = {file.path for file in before}
    (made,) = [file.path for file in SpoolFile.all_in(state_directory()) if file.path not in known]
    return made


def test_the_spool_that_is_meant_is_found() -> None:
    first = leave_a_spool(dead_uri(), "first")
    second = leave_a_spool(dead_uri(), "second", run_id="a" * 32)
    os.utime(first, (1, 1))
    later = SpoolFile(second).written_at_ns
    for wish, path in {str(first): first, str(state_directory()): second, "a" * 32: second}.items():
        target = the_target(wish)
        assert target.spool is not None
        assert target.spool.path == path, wish
    assert board_of(the_target(str(first))).title == "first"
    written = [SpoolFile(path).written_at_ns for path in (first, second)]
    assert written == [1_000_000_000, later], "whoever looks does not pass for the writer"


def test_a_running_process_comes_before_later_spools_of_dead_ones() -> None:
    with Training(1, tracking_uri=dead_uri(), end="os._exit(0)") as training:
        training.wait_until_logged()
        (running,) = SpoolFile.all_in(state_directory())
        later = leave_a_spool(dead_uri(), "later")
        os.utime(later, (2**31, 2**31))
        target = the_target()
        training.let_end()
    assert target.spool is not None
    assert target.spool.path == running.path


def test_latest_run_of_the_server_where_there_is_no_spool(any_mlflow: MlflowServer) -> None:
    experiment_id = any_mlflow.create_experiment(f"tail {os.urandom(4).hex()}")
    run_id = any_mlflow.create_run("only", experiment_id)
    assert the_target(tracking_uri=any_mlflow.uri, experiment_id=experiment_id).run_id == run_id


def test_latest_run_of_an_experiment_that_is_known_by_name(any_mlflow: MlflowServer) -> None:
    name = f"tail {os.urandom(4).hex()}"
    run_id = any_mlflow.create_run("only", any_mlflow.create_experiment(name))
    assert the_target(tracking_uri=any_mlflow.uri, experiment_name=name).run_id == run_id
    with pytest.raises(SettingsError, match="got no run"):
        the_target(tracking_uri=any_mlflow.uri, experiment_name=f"{name}, which nobody has made")


@pytest.mark.parametrize("wish", ["nonsense", "/nowhere/at/all"])
def test_wish_that_means_nothing_is_a_mistake(wish: str) -> None:
    with pytest.raises(SettingsError, match="expected a directory"):
        the_target(wish)


def test_nothing_to_watch_is_said(tmp_path: Path) -> None:
    for wish in (None, str(tmp_path)):
        with pytest.raises(SettingsError, match="Start a training"):
            the_target(wish, tracking_uri=dead_uri())


def test_command_prints_once_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_a_spool(dead_uri(), "the run")
    monkeypatch.setenv("RLTELEMETRY_METRIC_LABELS", "loss=My Loss")
    assert cli.main(["tail"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("the run\n1 point")
    assert "My Loss" in said
    assert "\x1b" not in said
    assert cli.main(["tail", "--keys", "actor/*"]) == 0
    assert "No points yet" in capsys.readouterr().out
    assert cli.main(["tail", "nonsense"]) == 2


def test_command_looks_at_this_directorys_server_where_nothing_else_is_named(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = server.EmbeddedServer(fake_mlflow.uri, os.getpid(), "", "")
    monkeypatch.setattr(server, "recorded", lambda _directory: own)
    monkeypatch.setattr(server, "find", lambda: None)
    fake_mlflow.create_run("trained here")
    assert cli.main(["tail", "--once"]) == 0
    assert "trained here" in capsys.readouterr().out


def test_terminal_is_drawn_over_and_ctrl_c_is_no_failure() -> None:
    with Training(3, tracking_uri=dead_uri(), end="os._exit(0)") as training:
        training.wait_until_logged()
        terminal, end = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(
            [sys.executable, "-m", "rltelemetry", "tail"], stdin=end, stdout=end, stderr=end, env=environ
        ) as process:
            os.close(end)
            seen = b""
            while seen.count(b"the run") < 3 or "▁".encode() not in seen:
                seen += os.read(terminal, 65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        os.close(terminal)
        training.let_end()
    assert b"\x1b[" in seen
    assert b"Traceback" not in seen
