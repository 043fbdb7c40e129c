"""Programs that end in every way that Python can see: what they logged arrives, and the run says how they ended."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from programs import PREAMBLE, assert_all_arrived, run_script

from rltelemetry.testing import FakeMlflow, ToxicProxy


def reason_in(server: FakeMlflow) -> str | None:
    (run,) = server.runs()
    return run.tags.get("rltelemetry.reason")


@pytest.mark.parametrize(
    ("body", "code", "status", "reason"),
    [
        ("with configure(): emit()", 0, "FINISHED", None),
        ("configure(); emit()", 0, "FINISHED", None),
        ("with configure(): emit(); sys.exit(0)", 0, "FINISHED", None),
        ("with configure(): emit(); sys.exit(3)", 3, "FAILED", "exit code 3"),
        ("with configure(): emit(); sys.exit('bad')", 1, "FAILED", "bad"),
        ("with configure(): emit(); raise ValueError('broken')", 1, "FAILED", "ValueError: broken"),
        ("configure(); emit(); raise ValueError('broken')", 1, "FAILED", "ValueError: broken"),
        ("with configure(): emit(); raise KeyboardInterrupt", 130, "KILLED", "Ctrl-C"),
        ("with configure(): emit(); sys.exit(143)", 143, "KILLED", "SIGTERM"),
    ],
)
def test_everything_arrives_however_the_program_returns(
    fake_mlflow: FakeMlflow, body: str, code: int, status: str, reason: str | None
) -> None:
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code in {code, code - 160 if code == 130 else code, -2 if code == 130 else code}
    assert_all_arrived(fake_mlflow, status)
    assert reason_in(fake_mlflow) == reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("form", ["with configure():\n    {}", "configure()\n{}"], ids=["with", "atexit"])
def test_signal_ends_the_run_killed_with_nothing_lost(
    fake_mlflow: FakeMlflow, number: signal.Signals, form: str
) -> None:
    body = form.format("emit(); print('ready', flush=True); time.sleep(60)")
    ended = run_script(body, fake_mlflow.uri, kill=number)
    assert ended.code == -number, ended.output
    assert_all_arrived(fake_mlflow, "KILLED")
    assert reason_in(fake_mlflow) == ("Ctrl-C" if number is signal.SIGINT else number.name)


DEAF = """
def wait_deaf():
    # another thread takes the signal, so that no wait of this one is interrupted: as if it came just before the wait
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Timer(0.3, print, args=("ready",), kwargs={"flush": True}).start()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def test_signal_that_the_main_thread_does_not_notice_is_brought_to_it(fake_mlflow: FakeMlflow) -> None:
    ended = run_script(f"{DEAF}\nwith configure(): emit(); wait_deaf()", fake_mlflow.uri, kill=signal.SIGTERM)
    assert ended.code == -signal.SIGTERM, ended.output
    assert_all_arrived(fake_mlflow, "KILLED")


def test_signal_that_a_child_does_not_notice_is_brought_to_it_and_to_nobody_else(fake_mlflow: FakeMlflow) -> None:
    body = f"""{DEAF}
with configure():
    emit(100)
    (reader, writer) = os.pipe()
    if (child := os.fork()) == 0:
        emit(50, start=100)
        if (grandchild := os.fork()) == 0:
            emit(50, start=150)
            os.dup2(writer, 1)
            wait_deaf()
        os.write(writer, b"%d " % grandchild)
        os._exit(0 if os.waitpid(grandchild, 0)[1] == signal.SIGTERM else 1)
    told = b""
    while b"ready" not in told: told += os.read(reader, 100)
    os.kill(int(told.split()[0]), signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0
"""
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_signal_that_comes_as_closing_begins_waits_for_its_end(fake_mlflow: FakeMlflow) -> None:
    body = """
    from rltelemetry.endings import Endings
    begin_close = Endings.begin_close
    def begin_close_later(self):
        Endings.begin_close = begin_close
        signal.raise_signal(signal.SIGTERM)
        begin_close(self)
    telemetry = configure()
    emit()
    Endings.begin_close = begin_close_later
    telemetry.close()
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == -signal.SIGTERM, ended.output
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
    http = telemetry._life.parts._export._client._http
    assert http._connection is not None
    http._connection = None   # as after MLflow has closed the idle connection
    emit()
    """
    assert run_script(body, f"http://localhost:{fake_mlflow.port}").code == 0
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
