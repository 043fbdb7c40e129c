"""An MLflow server of one's own: started once, found again, shared, stopped; real processes throughout."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rltelemetry import cli, server
from rltelemetry.errors import MissingExtraError, ServerError
from rltelemetry.processes import end_group, spawn_detached, start_mark
from rltelemetry.testing import FakeMlflow

START_S = 150.0


def real_server(test: Any) -> Any:
    return pytest.mark.mlflow(pytest.mark.timeout(300)(test))


def log_of(directory: Path) -> str:
    return (directory / ".rltelemetry" / "server.log").read_text(errors="replace")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A working directory whose server, if there is one, is stopped."""
    yield tmp_path
    server.stop(tmp_path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: pip install 'rltelemetry[mlflow]'")
    directory = tmp_path_factory.mktemp("embedded")
    yield directory
    server.stop(directory)


@real_server
def test_up_starts_it_waits_and_says_where_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--directory", str(place), "--timeout", str(START_S)]) == 0, log_of(place)
    said = capsys.readouterr().out
    known = server.recorded(place)
    assert known is not None
    assert f"MLflow: {known.uri} (starting" in said
    assert "rltelemetry down" in said
    assert server.find(known.uri) == known.uri


@real_server
def test_it_is_on_loopback_and_never_on_port_5000(place: Path) -> None:
    known = server.recorded(place)
    assert known is not None
    assert known.uri.startswith("http://127.0.0.1:")
    assert int(known.uri.rpartition(":")[2]) >= 5001


@real_server
def test_mlflows_own_conventions_name_its_data(place: Path) -> None:
    assert (place / "mlflow.db").exists()


@real_server
def test_a_second_run_shares_it(place: Path) -> None:
    known = server.recorded(place)
    again = server.ensure(place)
    assert known is not None
    assert (again.uri, again.pid, again.is_new) == (known.uri, known.pid, False)


@real_server
def test_down_stops_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = server.recorded(place)
    assert known is not None
    assert cli.main(["down", "--directory", str(place)]) == 0
    assert f"stopped {known.uri}" in capsys.readouterr().out
    assert server.recorded(place) is None
    assert start_mark(known.pid) == ""
    assert not server.answers(known.uri, 1.0)


@real_server
def test_down_twice_is_harmless(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down", "--directory", str(place)]) == 0
    assert "no server of ours runs here" in capsys.readouterr().out


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are processes that wait: what is tested is how they are kept, not MLflow."""
    monkeypatch.setattr(server, "command", lambda port: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())


@pytest.mark.usefixtures("sleeper")
def test_two_threads_that_ask_at_once_get_one_server(directory: Path) -> None:
    found: list[server.EmbeddedServer] = []
    threads = [threading.Thread(target=lambda: found.append(server.ensure(directory))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({embedded.pid for embedded in found}) == 1
    assert sum(embedded.is_new for embedded in found) == 1


@pytest.mark.usefixtures("sleeper")
def test_directories_have_servers_and_ports_of_their_own(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    first, second = (server.ensure(place) for place in places)
    try:
        assert first.uri != second.uri
    finally:
        for place in places:
            server.stop(place)


@pytest.mark.usefixtures("sleeper")
def test_port_that_somebody_holds_is_left_alone(directory: Path) -> None:
    held = int(server.ensure(directory).uri.rpartition(":")[2])
    server.stop(directory)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", held))
        other.listen()
        assert int(server.ensure(directory).uri.rpartition(":")[2]) != held


@pytest.mark.usefixtures("sleeper")
def test_server_that_has_died_is_replaced(directory: Path) -> None:
    dead = server.ensure(directory)
    end_group(dead.pid, dead.started, 5.0)
    fresh = server.ensure(directory)
    assert fresh.is_new
    assert fresh.pid != dead.pid


@pytest.mark.usefixtures("sleeper")
def test_server_that_never_listened_is_replaced_once_it_had_its_time(directory: Path) -> None:
    deaf = server.ensure(directory)
    assert server.ensure(directory).pid == deaf.pid
    record = directory / ".rltelemetry" / "server.json"
    os.utime(record, (0, 0))
    fresh = server.ensure(directory)
    assert fresh.pid != deaf.pid
    assert start_mark(deaf.pid) == ""


@pytest.mark.usefixtures("sleeper")
def test_up_says_when_it_does_not_answer_and_shows_its_log(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--directory", str(directory), "--timeout", "0.1"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_up_says_when_it_has_ended_and_shows_its_log(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    broken = "print('the reason', flush=True); raise SystemExit(1)"
    monkeypatch.setattr(server, "command", lambda port: [sys.executable, "-c", broken])
    assert cli.main(["up", "--directory", str(directory), "--timeout", "30"]) == 1
    complaint = capsys.readouterr().err
    assert "has ended" in complaint
    assert "the reason" in complaint


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": 1}', '{"uri": "x", "pid": "1", "started": "", "log": ""}'])
def test_record_that_cannot_be_read_is_no_server(directory: Path, record: str) -> None:
    (directory / ".rltelemetry").mkdir()
    (directory / ".rltelemetry" / "server.json").write_text(record)
    assert server.recorded(directory) is None


def test_pid_that_belongs_to_somebody_else_is_not_ours(directory: Path) -> None:
    (directory / ".rltelemetry").mkdir()
    stranger = {"uri": "http://127.0.0.1:5001", "pid": os.getpid(), "started": "1", "log": ""}
    (directory / ".rltelemetry" / "server.json").write_text(json.dumps(stranger))
    assert server.recorded(directory) is None
    assert server.stop(directory) is None


def test_without_mlflow_the_pip_command_is_named(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"pip install"):
        server.ensure(directory)
    assert cli.main(["up", "--directory", str(directory)]) == 3
    assert "pip install 'rltelemetry[mlflow]'" in capsys.readouterr().err


def test_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ServerError, match=str(blocked)):
        server.ensure(blocked)
    assert cli.main(["up", "--directory", str(blocked)]) == 3
    assert str(blocked) in capsys.readouterr().err


def test_its_environment_speaks_of_no_client_and_reports_nothing_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "laptop")
    environ = server.environment()
    assert environ["MLFLOW_SERVER_ALLOWED_HOSTS"] == "laptop"
    assert environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not {"MLFLOW_TRACKING_URI", "OTEL_EXPORTER_OTLP_ENDPOINT"} & environ.keys()


def test_mlflow_that_answers_is_found(fake_mlflow: FakeMlflow) -> None:
    assert server.find(fake_mlflow.uri) == fake_mlflow.uri


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (200, b"{}"), (403, b"{}"), (500, b""), (302, b"")]
)
def test_something_else_that_answers_is_not_taken_for_mlflow(status: int, body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert server.find(f"http://127.0.0.1:{other.server_port}", timeout_s=5.0) is None
        finally:
            other.shutdown()
            thread.join()


def test_nobody_at_the_address_is_no_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert server.find(f"http://127.0.0.1:{closed.getsockname()[1]}") is None


def test_process_outlives_the_program_that_started_it_and_its_group_can_be_ended(tmp_path: Path) -> None:
    body = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    pid = spawn_detached(
        [sys.executable, "-c", f"{body}; time.sleep(600)"], tmp_path, dict(os.environ), tmp_path / "log"
    )
    mark = start_mark(pid)
    assert mark
    assert os.getsid(pid) == pid
    assert not end_group(pid, "another mark", 1.0)
    assert end_group(pid, mark, 10.0)
    assert start_mark(pid) == ""


def test_program_that_does_not_exist_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be started"):
        spawn_detached([str(tmp_path / "nothing")], tmp_path, dict(os.environ), tmp_path / "log")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["up", "--help"]])
def test_help_and_version_go_to_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["up", "--timeout", "soon"]])
def test_bad_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_module_runs_as_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "rltelemetry", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("rltelemetry ")
