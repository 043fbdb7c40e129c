"""What dead processes have left: the next start, a parent and `rltelemetry sync` send it, once, to the run it is of."""

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from programs import EVENTS, Ended, run_script, start_script, steps_of, wait_for_line

import rltelemetry
from rltelemetry.cli import main
from rltelemetry.heir import Settlement
from rltelemetry.recovery import describe
from rltelemetry.sinks.mlflow import SpoolFile, connection, database
from rltelemetry.testing import FakeMlflow, MlflowServer, ToxicProxy

DEAD = "http://127.0.0.1:9"
LOG_AND_DIE = """
telemetry = configure(exit_timeout_s=0.3, run_name={name!r})
{before}
emit()
{after}
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def spools() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "rltelemetry"


def die(uri: str, name: str = "dead", *, before: str = "", after: str = "time.sleep(0.5)") -> Ended:
    """Log and be killed: with the run known, unsent points left behind."""
    ended = run_script(LOG_AND_DIE.format(name=name, before=before, after=after), uri)
    assert ended.code == -signal.SIGKILL, ended.output
    return ended


def leave(uri: str, name: str = "left") -> None:
    """Log, and end in the proper way while the server is away."""
    ended = run_script(f"with configure(exit_timeout_s=0.2, run_name={name!r}): emit()", uri)
    assert ended.code == 0, ended.output
    assert "rltelemetry sync" in ended.output


def sync(*arguments: str) -> int:
    return main(["sync", *arguments])


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def reachable(uri: str, **fields: Any) -> Iterator[rltelemetry.Telemetry]:
    quiet = {"console": "off", "system_metrics": False, "exit_timeout_s": 20.0}
    with rltelemetry.configure(tracking_uri=uri, **{**quiet, **fields}) as telemetry:
        yield telemetry


def test_sync_sends_what_a_program_left_and_creates_its_run(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(DEAD)
    assert len(list(spools.glob("*.spool"))) == 1
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    (run,) = fake_mlflow.runs()
    assert (run.name, run.status) == ("left", "FINISHED")
    assert steps_of(fake_mlflow, run.run_id) == list(range(EVENTS))
    assert run.tags["rltelemetry.service"] == "rltelemetry"
    assert list(spools.iterdir()) == []
    said = capsys.readouterr().out
    assert f"{EVENTS} points sent to {fake_mlflow.uri}/#/experiments/0/runs/{run.run_id}" in said
    assert "nothing is left" in said


def test_sync_runs_twice_without_harm(fake_mlflow: FakeMlflow, spools: Path) -> None:
    leave(DEAD)
    copy = {path: path.read_bytes() for path in spools.iterdir()}
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    for path, content in copy.items():  # as if it had died before it could remove the file
        path.write_bytes(content)
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(EVENTS))
    assert sync() == 0


def test_sync_says_what_stays_and_ends_with_one(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(DEAD)
    assert sync() == 1
    said = capsys.readouterr().out
    assert f"{EVENTS} points, 1 calls left; connection refused" in said
    assert "1 of 1 spools" in said
    assert sync("--tracking-uri", fake_mlflow.uri) == 0


def leave_quickly(spools: Path) -> Path:
    """Leave one point behind, in this process."""
    with reachable(DEAD, exit_timeout_s=0.1):
        structlog.get_logger().info("x", loss=1.0, step=1)
    (spool,) = spools.glob("*.spool")
    return spool


@contextlib.contextmanager
def locked(spool: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(spool, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def read_on_a_network(spool: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(spool, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = TRUNCATE").fetchall()
        monkeypatch.setattr(connection, "is_network_file_system", lambda _path: True)
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM rows").fetchall()
        yield


@contextlib.contextmanager
def failing_once(_spool: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    failures = [OSError(errno.EMFILE, "Too many open files")]

    def connect(file: SpoolFile, durability: connection.Durability) -> sqlite3.Connection:
        if failures:
            raise failures.pop()
        return connection.connect_disk(file, durability)

    with monkeypatch.context() as broken:
        broken.setattr(database, "connect_disk", connect)
        yield


Trouble = Callable[[Path, pytest.MonkeyPatch], contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", [locked, read_on_a_network, failing_once])
def test_sync_leaves_a_spool_that_it_cannot_open_as_it_is(
    trouble: Trouble,
    fake_mlflow: FakeMlflow,
    spools: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rltelemetry.sync.READER_S", 0.2)
    spool = leave_quickly(spools)
    with trouble(spool, monkeypatch):
        before = spool.read_bytes()
        assert sync("--tracking-uri", fake_mlflow.uri) == 1
        assert spool.read_bytes() == before
    said = capsys.readouterr().out
    assert f"{spool.name}: it cannot be opened" in said
    assert "1 of 1 spools" in said
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    (run,) = fake_mlflow.runs()
    assert [point.step for point in fake_mlflow.points(run.run_id)] == [1]


def test_training_leaves_a_spool_that_it_cannot_open_as_it_is(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave_quickly(spools)
    with locked(spool, monkeypatch):
        before = spool.read_bytes()
        with reachable(fake_mlflow.uri, run_name="next", console="json"):
            said: list[str] = []
            wait_for(lambda: said.append(capsys.readouterr().err) or "it cannot be opened" in "".join(said))
        assert spool.read_bytes() == before
    assert list(spools.glob("*.spool")) == [spool]


def test_sync_of_a_directory_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    assert sync(str(tmp_path / "no")) == 2


def test_sync_leaves_a_live_run_alone(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy, reachable(proxy.uri) as telemetry:
        assert telemetry.wait_ready(20.0)
        proxy.set_mode("stall")
        structlog.get_logger().info("x", loss=1.0, step=1)
        wait_for(lambda: telemetry.stats().points_kept == 1)
        assert sync() == 0
        assert "a running process is sending it" in capsys.readouterr().out
        proxy.set_mode("pass")
    assert len(fake_mlflow.points(str(telemetry.run_id))) == 1
    assert [run.status for run in fake_mlflow.runs()] == ["FINISHED"]


def test_sync_never_takes_credentials_to_another_server(fake_mlflow: FakeMlflow) -> None:
    leave(DEAD)
    spool = next(iter((Path(os.environ["XDG_STATE_HOME"]) / "rltelemetry").glob("*.spool")))
    _readdress(spool, DEAD, fake_mlflow.uri)
    os.environ |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:8", "MLFLOW_TRACKING_TOKEN": "s3cret"}
    assert sync() == 0
    assert fake_mlflow.requests
    assert all("authorization" not in request.headers for request in fake_mlflow.requests)


def _readdress(spool: Path, before: str, after: str) -> None:
    with contextlib.closing(sqlite3.connect(spool)) as db, db:
        db.execute("UPDATE meta SET value = replace(value, ?, ?)", (before, after))


def test_killed_run_is_marked_by_the_next_start_which_sends_its_points(fake_mlflow: FakeMlflow, spools: Path) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        die(proxy.uri, before="telemetry.wait_ready(20)", after="time.sleep(0.5)")
        (dead,) = fake_mlflow.runs()
        assert dead.status == "RUNNING"
        with reachable(proxy.uri, run_name="next"):
            wait_for(lambda: len(list(spools.glob("*.spool"))) == 1)
    killed = fake_mlflow.run(dead.run_id)
    assert steps_of(fake_mlflow, dead.run_id) == list(range(EVENTS))
    assert killed.end_time_ms is not None
    assert killed.start_time_ms <= killed.end_time_ms <= time.time() * 1000
    assert sorted(run.status for run in fake_mlflow.runs()) == ["FINISHED", "KILLED"]
    assert list(spools.iterdir()) == []


def test_points_of_a_process_that_never_saw_the_server_are_sent_by_the_next_start(
    fake_mlflow: FakeMlflow, spools: Path
) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        proxy.stop()
        die(proxy.uri)
        assert fake_mlflow.runs() == []
        proxy.start()
        with reachable(proxy.uri, run_name="next"):
            wait_for(lambda: len(list(spools.glob("*.spool"))) == 1)
    (dead,) = [run for run in fake_mlflow.runs() if run.name == "dead"]
    assert dead.status == "KILLED"
    assert steps_of(fake_mlflow, dead.run_id) == list(range(EVENTS))


def test_run_that_another_process_has_taken_over_is_not_called_dead(fake_mlflow: FakeMlflow) -> None:
    die(fake_mlflow.uri, before="telemetry.wait_ready(20)")
    (run,) = fake_mlflow.runs()
    with reachable(fake_mlflow.uri, run_id=run.run_id) as telemetry:
        assert telemetry.wait_ready(20.0)
        assert sync() == 0
        assert fake_mlflow.run(run.run_id).status == "RUNNING"
    assert fake_mlflow.run(run.run_id).status == "FINISHED"


@pytest.mark.parametrize("is_over", [False, True], ids=["while the heir trains", "after the heir has finished"])
def test_end_that_a_resumed_run_has_overtaken_is_not_told(
    is_over: bool, fake_mlflow: FakeMlflow, spools: Path, tmp_path: Path
) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        left = """
        telemetry = configure(exit_timeout_s=0.2)
        assert telemetry.wait_ready(20) and telemetry.flush(20)
        print("ready", telemetry.client_uuid, flush=True)
        sys.stdin.readline()
        emit()
        telemetry.close("KILLED", reason="SIGHUP")
        """
        with start_script(left, proxy.uri) as process:
            client_uuid = wait_for_line(process, "ready").split()[-1]
            proxy.stop()
            process.communicate("go\n", timeout=60)
        (run_id,) = [run.run_id for run in fake_mlflow.runs()]
        proxy.start()
        elsewhere = {"spool_dir": tmp_path / "another host"}
        with reachable(proxy.uri, client_uuid=client_uuid, **elsewhere) as telemetry:
            assert telemetry.wait_ready(20.0)
            if not is_over:
                assert sync() == 0
                assert fake_mlflow.run(run_id).status == "RUNNING"
        assert sync() == 0
    run = fake_mlflow.run(run_id)
    assert (run.status, run.tags.get("rltelemetry.reason")) == ("FINISHED", None)
    assert steps_of(fake_mlflow, run_id) == list(range(EVENTS))


def test_end_of_a_resumed_program_that_never_reached_the_server_is_told(fake_mlflow: FakeMlflow) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        with reachable(proxy.uri) as first:
            assert first.wait_ready(20.0)
        first_end = fake_mlflow.run(str(first.run_id)).end_time_ms
        proxy.stop()
        with reachable(proxy.uri, client_uuid=first.client_uuid, exit_timeout_s=0.2) as second:
            second.set_tags({"try": 2})
        proxy.start()
        assert sync() == 0
    run = fake_mlflow.run(str(first.run_id))
    assert run.tags["try"] == "2"
    assert run.end_time_ms is not None
    assert first_end is not None
    assert run.end_time_ms > first_end


def test_resumed_program_goes_on_in_the_run_that_has_its_uuid(fake_mlflow: FakeMlflow) -> None:
    with reachable(fake_mlflow.uri) as first:
        structlog.get_logger().info("x", loss=1.0, step=1)
    with reachable(fake_mlflow.uri, client_uuid=first.client_uuid) as second:
        structlog.get_logger().info("x", loss=2.0, step=2)
        assert second.wait_ready(20.0)
        assert fake_mlflow.run(str(second.run_id)).status == "RUNNING"
    (run,) = fake_mlflow.runs()
    assert [point.step for point in fake_mlflow.points(run.run_id)] == [1, 2]


def test_spool_of_another_server_is_left_to_sync_with_a_word(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(DEAD, "elsewhere")
    leave(DEAD, "elsewhere, too")
    with ToxicProxy(fake_mlflow.port) as proxy:
        proxy.stop()
        leave(proxy.uri, "here")
        proxy.start()
        with reachable(proxy.uri, run_name="next", console="json"):
            wait_for(lambda: len(list(spools.glob("*.spool"))) == 3)
        uri = proxy.uri
    assert sorted(run.name for run in fake_mlflow.runs()) == ["here", "next"]
    assert len(list(spools.glob("*.spool"))) == 2
    said = capsys.readouterr().err
    assert said.count(f"left data for the MLflow server at {DEAD}") == 1
    assert f"or to this run's server, with: rltelemetry sync --tracking-uri {uri}" in said


def test_spool_of_a_run_that_another_server_holds_is_not_recommended_to_this_one(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeMlflow() as elsewhere:
        die(elsewhere.uri, before="telemetry.wait_ready(20)", after="assert telemetry.flush(20)")
    with reachable(fake_mlflow.uri, console="json") as telemetry:
        assert telemetry.wait_ready(20.0)
        said: list[str] = []
        wait_for(lambda: said.append(capsys.readouterr().err) or "left data" in "".join(said))
    assert "if that is the same server under another address" in "".join(said)


def test_parent_sends_what_its_killed_children_have_left(fake_mlflow: FakeMlflow, spools: Path) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        children = []
        for start in (50, 100, 150):
            pid = os.fork()
            if pid == 0:
                emit(50, start=start)
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            children.append(pid)
        for pid in children: os.waitpid(pid, 0)
    """
    ended = run_script(body, fake_mlflow.uri, timeout_s=60.0)
    assert ended.code == 0, ended.output
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(200))
    assert run.status == "FINISHED"
    assert list(spools.iterdir()) == []


def test_dead_child_of_a_living_parent_is_left_to_it(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure():
        emit(100)
        if (child := os.fork()) == 0:
            emit(100, start=100)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        print("ready", flush=True)
        sys.stdin.readline()
    """
    with ToxicProxy(fake_mlflow.port) as proxy:
        proxy.set_mode("hang")
        with start_script(body, proxy.uri) as process:
            wait_for_line(process, "ready")
            other = run_script(
                "with configure() as other: assert other.wait_ready(10); time.sleep(0.5)", fake_mlflow.uri
            )
            proxy.set_mode("pass")
            output = process.communicate("go\n", timeout=60)[0]
    assert other.code == process.returncode == 0, output
    assert "an earlier process" not in other.output
    assert sorted(len(steps_of(fake_mlflow, run.run_id)) for run in fake_mlflow.runs()) == [0, 200]


def test_sync_sends_a_whole_family_to_one_run(fake_mlflow: FakeMlflow, spools: Path) -> None:
    body = """
    telemetry = configure(exit_timeout_s=0.2)
    emit(100)
    time.sleep(0.3)
    if os.fork() == 0:
        emit(100, start=100)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(body, DEAD).code == -signal.SIGKILL
    assert len(list(spools.glob("*.spool"))) == 2
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(200))
    assert run.status == "KILLED"


def test_child_whose_family_is_gone_has_its_run_created(fake_mlflow: FakeMlflow, spools: Path) -> None:
    body = """
    telemetry = configure(exit_timeout_s=0.2)
    if os.fork() == 0:
        emit()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    run_script(body, DEAD)
    for file in SpoolFile.all_in(spools):
        if not file.is_child:
            file.release(remove=True)
    assert sync("--tracking-uri", fake_mlflow.uri) == 0
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(EVENTS))


def test_two_syncs_at_once_share_the_work(fake_mlflow: FakeMlflow, spools: Path) -> None:
    for number in range(4):
        leave(DEAD, f"run {number}")
    command = [sys.executable, "-m", "rltelemetry", "sync", "--tracking-uri", fake_mlflow.uri]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(run.name for run in fake_mlflow.runs()) == [f"run {number}" for number in range(4)]
    for run in fake_mlflow.runs():
        assert steps_of(fake_mlflow, run.run_id) == list(range(EVENTS))
    assert list(spools.iterdir()) == []


def test_held_spool_stays_and_says_why(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        run_id = fake_mlflow.create_run()
        proxy.stop()
        ended = run_script(f"with configure(exit_timeout_s=0.2, run_id={run_id!r}): emit()", proxy.uri)
        assert ended.code == 0
        fake_mlflow.delete_run(run_id)
        proxy.start()
        assert sync() == 1
        assert "It was deleted" in capsys.readouterr().out
        assert len(proxy_requests(fake_mlflow)) < 10
        fake_mlflow.ask("POST", "/api/2.0/mlflow/runs/restore", {"run_id": run_id})
        assert sync() == 0
    assert steps_of(fake_mlflow, run_id) == list(range(EVENTS))


def proxy_requests(server: FakeMlflow) -> list[str]:
    return [request.path for request in server.requests]


@pytest.mark.mlflow
def test_real_server_gets_a_killed_run_whole(mlflow_server: MlflowServer, spools: Path) -> None:
    experiment = mlflow_server.create_experiment("recovery")
    with ToxicProxy(mlflow_server.uri) as proxy:
        os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
        proxy.stop()
        die(proxy.uri)
        proxy.start()
        assert sync() == 0
    (run,) = mlflow_server.runs(experiment)
    assert (run.name, run.status) == ("dead", "KILLED")
    assert steps_of(mlflow_server, run.run_id) == list(range(EVENTS))
    assert list(spools.iterdir()) == []


def test_killed_run_that_left_no_data_is_marked_as_soon_as_its_server_answers(
    fake_mlflow: FakeMlflow, spools: Path
) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        die(proxy.uri, before="telemetry.wait_ready(20)", after="assert telemetry.flush(20)")
        proxy.stop()
        assert sync() == 1, "the server must still be told"
        proxy.start()
        assert sync() == 0
    (run,) = fake_mlflow.runs()
    assert run.status == "KILLED"
    assert list(spools.iterdir()) == []


def test_killed_run_that_left_no_data_and_is_gone_is_forgotten(
    fake_mlflow: FakeMlflow, spools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeMlflow() as gone, ToxicProxy(gone.port) as proxy:
        die(proxy.uri, before="telemetry.wait_ready(20)", after="assert telemetry.flush(20)")
        port = proxy.port
    with ToxicProxy(fake_mlflow.port, port):  # the same address, with an empty server behind it
        assert sync() == 1
    assert "not found" in capsys.readouterr().out
    assert list(spools.iterdir()) == []


def test_killed_run_that_left_no_data_is_not_forgotten_because_another_server_does_not_know_it(
    fake_mlflow: FakeMlflow, spools: Path
) -> None:
    with FakeMlflow() as wrong:
        die(fake_mlflow.uri, before="telemetry.wait_ready(20)", after="assert telemetry.flush(20)")
        assert sync("--tracking-uri", wrong.uri) == 1
    assert sync() == 0
    assert [run.status for run in fake_mlflow.runs()] == ["KILLED"]
    assert list(spools.iterdir()) == []


@pytest.mark.parametrize(
    ("settlement", "said"),
    [
        (Settlement(), ""),
        (Settlement("URL", 7), "7 points sent to URL"),
        (Settlement("URL"), "all that it held was sent to URL"),
        (Settlement("URL", 0, {"call": 1}, "connection refused"), "1 calls left; connection refused"),
        (Settlement("URL", 7, {"points": 2}), "7 points sent to URL; 2 points left"),
    ],
)
def test_what_became_of_a_spool_is_said_in_its_own_words(settlement: Settlement, said: str) -> None:
    assert describe(settlement) == said
