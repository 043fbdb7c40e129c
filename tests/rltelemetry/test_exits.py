"""Leaving is bounded, whatever the server, the resolver or a foreign back end do, and whatever ends the program.

The bounds here are generous, since test machines are busy; unbounded, each of these would take half a minute or more.
"""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from programs import EVENTS, Ended, run_script

from rltelemetry.cli import main
from rltelemetry.testing import FakeMlflow

BOUND_S = 0.8
LIMIT_S = 8.0

ENDINGS = {
    "return": ("", None, 0),
    "exception": ("raise ValueError('broken')", None, 1),
    "sys.exit": ("sys.exit(3)", None, 3),
    "SIGINT": ("", signal.SIGINT, -signal.SIGINT),
    "SIGTERM": ("", signal.SIGTERM, -signal.SIGTERM),
    "SIGHUP": ("", signal.SIGHUP, -signal.SIGHUP),
}
STALL_RESOLVER = """
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: time.sleep(120) if host == "mlflow.example" else real(host, *a, **k)
"""
OBSTACLES = {
    "hanging": ("{hanging}", "", ""),
    "refused": ("http://127.0.0.1:9", "", ""),
    "stalled resolver": ("http://mlflow.example:5000", STALL_RESOLVER, ""),
    "hanging back end, http": ("{fake}", "os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = {hanging!r}", "http/protobuf"),
    "hanging back end, grpc": ("{fake}", "os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = {hanging!r}", "grpc"),
}
CASES = [
    *((ending, "hanging") for ending in ENDINGS),
    *((ending, obstacle) for ending in ("return", "SIGTERM") for obstacle in list(OBSTACLES)[1:3]),
    *(("return", obstacle) for obstacle in list(OBSTACLES)[3:]),
]


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def leave(uri: str, before: str, ending: str) -> Ended:
    """Log, and leave; `seconds` is what leaving took."""
    last, number, _ = ENDINGS[ending]
    body = f"""
{before}
rltelemetry.configure(console="json", system_metrics=False, exit_timeout_s={BOUND_S})
with rltelemetry.pipeline._current.telemetry.span("update"):
    emit()
time.sleep(0.4)
print("ready", time.time(), flush=True)
{"time.sleep(60)" if number else last}
"""
    ended = run_script(body, uri, kill=number, timeout_s=60.0)
    if number:
        return ended
    began = float(ended.output.partition("ready ")[2].split()[0])
    return ended._replace(seconds=time.time() - began)


@pytest.mark.parametrize(("ending", "obstacle"), CASES)
def test_leaving_is_bounded_and_changes_no_exit_code(
    fake_mlflow: FakeMlflow, hanging: str, ending: str, obstacle: str
) -> None:
    uri, before, protocol = OBSTACLES[obstacle]
    names = {"hanging": hanging, "fake": fake_mlflow.uri}
    if protocol:
        before += f"\nos.environ['OTEL_EXPORTER_OTLP_PROTOCOL'] = {protocol!r}"
    ended = leave(uri.format(**names), before.format(**names), ending)
    assert ended.code == ENDINGS[ending][2], ended.output
    assert ended.seconds < LIMIT_S
    assert f"events: {EVENTS} processed, 0 dropped" in ended.output
    if protocol:
        assert f"points: {EVENTS} sent, 0 kept" in ended.output
    else:
        assert f"points: 0 sent, {EVENTS} kept, 0 dropped" in ended.output
        assert "send it with: rltelemetry sync" in ended.output


def test_signal_that_is_repeated_leaves_at_once(hanging: str) -> None:
    body = """
rltelemetry.configure(console="off", system_metrics=False, exit_timeout_s=60.0)
emit()
time.sleep(0.4)
def again():
    while True:
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=again, daemon=True).start()
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = run_script(body, hanging)
    assert ended.code == -signal.SIGTERM
    assert ended.seconds < 20.0


@pytest.mark.parametrize(
    "first", ["os.kill(os.getpid(), signal.SIGHUP)", "rltelemetry.pipeline._current.telemetry.close()"]
)
def test_signal_that_comes_while_closing_cuts_nothing_short(fake_mlflow: FakeMlflow, first: str) -> None:
    fake_mlflow.latency_s = 0.3  # so that closing takes a while
    body = f"""
configure()
emit()
def again():
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=again, daemon=True).start()
{first}
time.sleep(60)
"""
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code in {-signal.SIGTERM, -signal.SIGHUP}, ended.output
    (run,) = fake_mlflow.runs()
    assert len(fake_mlflow.points(run.run_id)) == EVENTS
    assert run.status in {"KILLED", "FINISHED"}


def test_what_the_last_line_says_is_what_the_spool_holds_and_sync_sends(
    fake_mlflow: FakeMlflow, tmp_path: Path
) -> None:
    folder = tmp_path / "my spools"
    os.environ["RLTELEMETRY_SPOOL_DIR"] = str(folder)
    ended = leave("http://127.0.0.1:9", "", "return")
    (spool,) = folder.glob("*.spool")
    with closing(sqlite3.connect(spool)) as db:
        query = "SELECT total(count - taken) FROM rows WHERE kind = 'points'"
        assert db.execute(query).fetchone() == (EVENTS,)
    command = ended.output.partition("send it with: rltelemetry ")[2].partition('"')[0]
    assert command == f"sync '{folder}'"
    del os.environ["RLTELEMETRY_SPOOL_DIR"]
    assert main(["sync", str(folder), "--tracking-uri", fake_mlflow.uri]) == 0
    (run,) = fake_mlflow.runs()
    assert len(fake_mlflow.points(run.run_id)) == EVENTS
    assert len(fake_mlflow.traces(run.run_id)) == 1
