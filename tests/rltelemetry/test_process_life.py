"""Programs that end in every way that Python can see: what they logged arrives, and the run says how they ended."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import PREAMBLE, assert_all_arrived, run_script, steps_of

from rltelemetry.testing import FakeMlflow, ToxicProxy


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ("with configure(): emit()", 0, "FINISHED"),
        ("configure(); emit()", 0, "FINISHED"),
        ("with configure(): emit(); sys.exit(0)", 0, "FINISHED"),
        ("with configure(): emit(); sys.exit(3)", 3, "FAILED"),
        ("with configure(): emit(); sys.exit('bad')", 1, "FAILED"),
        ("with configure(): emit(); raise ValueError('broken')", 1, "FAILED"),
        ("configure(); emit(); raise ValueError('broken')", 1, "FAILED"),
        ("with configure(): emit(); raise KeyboardInterrupt", 130, "KILLED"),
        ("with configure(): emit(); sys.exit(143)", 143, "KILLED"),
    ],
)
def test_everything_arrives_however_the_program_returns(
    fake_mlflow: FakeMlflow, body: str, code: int, status: str
) -> None:
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code in {code, code - 160 if code == 130 else code, -2 if code == 130 else code}
    assert_all_arrived(fake_mlflow, status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("form", ["with configure():\n    {}", "configure()\n{}"], ids=["with", "atexit"])
def test_signal_ends_the_run_killed_with_nothing_lost(
    fake_mlflow: FakeMlflow, number: signal.Signals, form: str
) -> None:
    body = form.format("emit(); print('ready', flush=True); time.sleep(60)")
    ended = run_script(body, fake_mlflow.uri, kill=number)
    assert ended.code == -number, ended.output
    assert_all_arrived(fake_mlflow, "KILLED")


def test_handler_of_the_program_is_left_alone(fake_mlflow: FakeMlflow) -> None:
    body = """
    def handler(*_): raise SystemExit(7)
    signal.signal(signal.SIGTERM, handler)
    with configure():
        assert signal.getsignal(signal.SIGTERM) is handler
        emit(); print("ready", flush=True); time.sleep(60)
    """
    assert run_script(body, fake_mlflow.uri, kill=signal.SIGTERM).code == 7
    assert_all_arrived(fake_mlflow, "FAILED")


def test_handlers_are_given_back_on_close(fake_mlflow: FakeMlflow) -> None:
    body = """
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP), sys.excepthook
    with configure():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP), sys.excepthook) == before
    """
    assert run_script(body, fake_mlflow.uri).code == 0


def test_thread_that_outlives_the_main_thread_is_heard(fake_mlflow: FakeMlflow) -> None:
    body = """
    configure()
    def late():
        time.sleep(0.3)
        emit()
    threading.Thread(target=late).start()
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_log_call_after_the_end_is_harmless(fake_mlflow: FakeMlflow) -> None:
    body = """
    import atexit
    class Last:
        def __del__(self): log.info("from __del__")
    atexit.register(lambda: log.info("after our hook"))
    last = Last()
    telemetry = configure()
    emit()
    telemetry.close()
    telemetry.close()
    log.info("after close")
    telemetry.log_params({"a": 1}); telemetry.set_tags({"a": 1})
    with telemetry.span("late"): log.info("inside")
    assert telemetry.stats().events_dropped["closed"] == 2, telemetry.stats()
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert "after close" in ended.output
    assert "after our hook" in ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_cold_connection_to_localhost_works_from_an_exit_hook(fake_mlflow: FakeMlflow) -> None:
    body = """
    telemetry = configure()
    telemetry.wait_ready(10)
    telemetry._parts._export._client._http = None   # as after MLflow has closed the idle connection
    emit()
    """
    assert run_script(body, f"http://localhost:{fake_mlflow.port}").code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["hanging", "refused"])
@pytest.mark.parametrize("traces", [False, True])
def test_exit_is_bounded_and_keeps_what_it_cannot_send(hanging: str, kind: str, traces: bool, tmp_path: Path) -> None:
    uri = hanging if kind == "hanging" else "http://127.0.0.1:9"
    body = f"""
    telemetry = rltelemetry.configure(console="json", spool_dir={str(tmp_path)!r}, traces={traces})
    emit()
    time.sleep(0.3)
    print("ready", flush=True)
    with telemetry.span("update"):
        emit()
    start = time.monotonic()
    telemetry.close()
    print("closed in", time.monotonic() - start)
    stats = telemetry.stats()
    assert stats.points_sent == 0 and stats.points_kept >= 400, stats
    assert stats.points_extracted == stats.points_sent + stats.points_kept + sum(stats.points_dropped.values())
    """
    ended = run_script(body, uri)
    assert ended.code == 0, ended.output
    closed_s = float(ended.output.split("closed in")[1].split()[0])
    assert closed_s < 3.3
    assert str(tmp_path) in ended.output, "the last line says where the data is"


def test_stock_exporter_obeys_the_same_bound(hanging: str, fake_mlflow: FakeMlflow) -> None:
    body = f"""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = {hanging!r}
    telemetry = rltelemetry.configure(console="off", system_metrics=False)
    with telemetry.span("update"): emit(10)
    start = time.monotonic()
    telemetry.close()
    assert time.monotonic() - start < 3.3, time.monotonic() - start
    """
    start = time.monotonic()
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert time.monotonic() - start < 10


def test_stalled_resolver_does_not_hold_the_exit(tmp_path: Path) -> None:
    body = f"""
    import socket
    def stalled(*_a, **_k): time.sleep(60)
    socket.getaddrinfo = stalled
    telemetry = configure(spool_dir={str(tmp_path)!r}, exit_timeout_s=1.0)
    emit()
    start = time.monotonic()
    telemetry.close()
    assert time.monotonic() - start < 1.5
    """
    ended = run_script(body, "http://mlflow.example:5000")
    assert ended.code == 0, ended.output
    assert ended.seconds < 10


@pytest.mark.parametrize("number", range(3))
def test_os_fork_child_logs_into_the_same_run_and_the_parent_is_not_sent_twice(
    fake_mlflow: FakeMlflow, number: int
) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        pid = os.fork()
        if pid == 0:
            emit(50, start=50)
            telemetry.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        emit(100, start=100)
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_child_that_runs_off_the_with_block_leaves_the_run_to_its_parent(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        pid = os.fork()
        if pid == 0:
            emit(50, start=50)
        else:
            assert os.waitpid(pid, 0)[1] == 0
            emit(100, start=100)
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_multiprocessing_children_are_heard_though_they_leave_by_os_exit(fake_mlflow: FakeMlflow) -> None:
    body = """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    def work(start): emit(50, start=start)
    with configure():
        emit(50)
        children = [context.Process(target=work, args=(start,)) for start in (50, 100, 150)]
        for child in children: child.start()
        for child in children: child.join()
        assert [child.exitcode for child in children] == [0, 0, 0]
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_fifty_forks_beside_a_logging_thread_never_deadlock(fake_mlflow: FakeMlflow) -> None:
    body = """
    stop = threading.Event()
    def chatter():
        while not stop.is_set():
            log.info("chatter", category="ACTOR", value=1.0, step=1)
            time.sleep(0.0005)
    with configure() as telemetry:
        thread = threading.Thread(target=chatter)
        thread.start()
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                log.info("train", category="TRAINER", loss=float(number), timesteps=number)
                telemetry.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
    """
    ended = run_script(body, fake_mlflow.uri, timeout_s=60.0)
    assert ended.code == 0, ended.output
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(50))


def test_child_that_never_logs_opens_nothing(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit()
        pid = os.fork()
        if pid == 0:
            assert threading.active_count() == 1
            telemetry.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_server_that_comes_late_gets_everything(fake_mlflow: FakeMlflow) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        proxy.stop()
        body = """
        with configure() as telemetry:
            emit()
            print("ready", flush=True)
            sys.stdin.readline()
            assert telemetry.wait_ready(20)
        """
        environ = {**os.environ, "MLFLOW_TRACKING_URI": proxy.uri}
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(body)],
            env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        proxy.start()
        process.communicate("go\n", timeout=30)
        assert process.returncode == 0
    assert_all_arrived(fake_mlflow, "FINISHED")
