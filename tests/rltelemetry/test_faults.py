"""The delivery promise against a real MLflow, fault by fault: nothing missing, nothing twice, nobody waits.

Each point has a step of its own, so that a point that is missing, or stored with another time, shows. The long cases
are marked `faults` (`nox -s faults`); `benchmarks/delivery.py` runs them all and prints their figures.
"""

import itertools
import os
import random
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from programs import run_script, start_script, wait_for_line

import rltelemetry
from rltelemetry.cli import main
from rltelemetry.testing import MlflowServer, RealMlflow, SshServer, ToxicProxy

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

PATIENCE_S = 120.0
KILL_MARGIN_S = 0.25
"""What was logged so long before a kill -9 must arrive; more, where the writer itself was kept from the processor."""


@pytest.fixture
def proxy(mlflow_server: MlflowServer) -> Iterator[ToxicProxy]:
    with ToxicProxy(mlflow_server.uri) as made:
        yield made


@pytest.fixture
def experiment(mlflow_server: MlflowServer, request: pytest.FixtureRequest) -> str:
    return mlflow_server.create_experiment(f"{request.node.name} {time.time_ns()}")


class Training:
    """A program that logs a point a step, at its own pace, and knows what it has logged."""

    def __init__(self, uri: str, **fields: Any) -> None:
        quiet = {"console": "off", "system_metrics": False, "traces": False, "exit_timeout_s": PATIENCE_S}
        self.telemetry = rltelemetry.configure(tracking_uri=uri, **{**quiet, **fields})
        self.steps = 0
        self.slowest_s = 0.0
        self._log = structlog.get_logger("training")

    def log(self, count: int, pause_s: float = 0.0) -> None:
        for _ in range(count):
            start = time.perf_counter()
            self._log.info("train", category="TRAINER", loss=self.steps / 7, timesteps=self.steps)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start)
            self.steps += 1
            if pause_s:
                time.sleep(pause_s)

    def log_for(self, seconds: float) -> None:
        """Log 200 points a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.log(10)
            time.sleep(0.05)

    def finish(self, server: MlflowServer) -> None:
        """End, and compare what the server holds with what was logged."""
        assert self.telemetry.flush(PATIENCE_S)
        self.telemetry.close()
        stats = self.telemetry.stats()
        assert stats.events_emitted == stats.events_processed == self.steps
        assert (stats.points_extracted, stats.points_sent, stats.points_kept) == (self.steps, self.steps, 0)
        assert_exactly(server, str(self.telemetry.run_id), range(self.steps))


def assert_exactly(server: MlflowServer, run_id: str, steps: Any) -> None:
    """0 missing and 0 duplicate."""
    stored = Counter((point.step, point.value) for point in server.points(run_id, "trainer/loss"))
    assert stored == Counter((step, step / 7) for step in steps)


def wait_for(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_server_that_is_down_from_the_start(mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str) -> None:
    proxy.stop()
    training = Training(proxy.uri, experiment_id=experiment)
    training.log_for(2.0)
    assert training.telemetry.run_id is None
    proxy.start()
    training.log_for(0.5)
    training.finish(mlflow_server)
    assert len(mlflow_server.runs(experiment)) == 1


@pytest.mark.parametrize("down_s", [2.0, pytest.param(60.0, marks=pytest.mark.faults)])
def test_server_that_goes_down_in_the_middle(
    mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str, down_s: float
) -> None:
    training = Training(proxy.uri, experiment_id=experiment)
    assert training.telemetry.wait_ready(PATIENCE_S)
    training.log_for(1.0)
    proxy.stop()
    training.log_for(down_s)
    assert training.telemetry.stats().points_kept > 0
    proxy.start()
    training.log_for(0.5)
    training.finish(mlflow_server)


@pytest.mark.parametrize("mode", ["lose_reply", "cut_reply", "reset", "garbage"])
def test_answers_that_are_lost(mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str, mode: Any) -> None:
    proxy.set_mode(mode, count=2)  # also those of looking for the run, and of creating it
    training = Training(proxy.uri, experiment_id=experiment, flush_interval_s=0.2)
    for _ in range(8):
        training.log_for(0.25)
        proxy.set_mode(mode, count=1)
    training.finish(mlflow_server)
    assert len(mlflow_server.runs(experiment)) == 1


def test_every_second_answer_lost_at_random(mlflow_server: MlflowServer, experiment: str) -> None:
    chance = random.Random(5)
    with ToxicProxy(mlflow_server.uri) as proxy:
        training = Training(proxy.uri, experiment_id=experiment, flush_interval_s=0.1)
        for _ in range(25):
            proxy.set_mode(chance.choice(["lose_reply", "cut_reply", "pass"]), count=1)  # type: ignore[arg-type]
            training.log(20, pause_s=0.005)
        training.finish(mlflow_server)
    assert len(mlflow_server.runs(experiment)) == 1


WRITER = """
import struct
telemetry = configure(exit_timeout_s=1.0, flush_interval_s=0.2)
print("ready", flush=True)
step = 0
while True:
    log.info("train", category="TRAINER", loss=step / 7, timesteps=step)
    os.write(1, struct.pack("<qq", step, time.time_ns()))
    step += 1
    time.sleep(0.002)
"""


def kill_writer(uri: str, after_s: float) -> int:
    """Start a writer and kill it; returns how many of its steps must arrive."""
    with start_script(WRITER, uri, is_binary=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        killed_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        data = process.stdout.read()
    stamps = [stamp for _, stamp in struct.iter_unpack("<qq", data[: len(data) // 16 * 16])]
    held_up_ns = max(after - before for before, after in itertools.pairwise([*stamps, killed_ns]))
    return sum(stamp < killed_ns - int(KILL_MARGIN_S * 1e9) - 2 * held_up_ns for stamp in stamps)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_writer_that_is_killed_at_random_moments(
    mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str, kills: int
) -> None:
    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
    chance = random.Random(11)
    sure: dict[str, int] = {}
    for number in range(kills):
        os.environ["MLFLOW_RUN_NAME"] = name = f"writer {number}"
        proxy.set_mode(chance.choice(["pass", "lose_reply", "cut_reply"]))  # type: ignore[arg-type]
        sure[name] = kill_writer(proxy.uri, chance.uniform(0.5, 2.5))
    proxy.set_mode("pass")
    assert main(["sync"]) == 0
    runs = mlflow_server.runs(experiment)
    assert len({run.name for run in runs}) == len(runs)
    found = {}
    for run in runs:
        steps = sorted(point.step for point in mlflow_server.points(run.run_id, "trainer/loss"))
        assert steps == list(range(len(steps))), "no gap, no duplicate"
        assert run.status == "KILLED"
        assert run.tags["rltelemetry.reason"].startswith("the process died without a word")
        found[run.name] = len(steps)
    assert sum(sure.values()) > 0
    assert all(found.get(name, 0) >= count for name, count in sure.items()), (found, sure)


def test_server_that_asks_to_wait_is_not_asked_meanwhile(
    mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str
) -> None:
    training = Training(proxy.uri, experiment_id=experiment)
    assert proxy.wait_for_requests(3, PATIENCE_S)  # found, created, first sign of life
    proxy.answer_with(429, {"Retry-After": "5"}, b"slow down", count=1)
    before = proxy.requests
    training.log(10)
    assert proxy.wait_for_requests(before + 1, PATIENCE_S)
    refused_at, seen = time.monotonic(), proxy.requests
    while time.monotonic() < refused_at + 4.5:
        training.log_for(0.1)
        assert proxy.requests == seen
    training.finish(mlflow_server)


def test_slow_server_costs_the_caller_nothing(mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str) -> None:
    proxy.latency_s = 1.0
    training = Training(proxy.uri, experiment_id=experiment)
    proxy.set_mode("latency")
    training.log_for(6.0)
    proxy.set_mode("pass")
    training.finish(mlflow_server)
    assert training.slowest_s < 1.0


def test_thin_line_loses_nothing(mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str) -> None:
    proxy.bytes_per_s = 64_000 / 8
    training = Training(proxy.uri, experiment_id=experiment)
    proxy.set_mode("rate")
    training.log_for(4.0)
    proxy.set_mode("pass")
    training.finish(mlflow_server)


FLOOD = """
import resource, json
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
telemetry = rltelemetry.configure(console="off", system_metrics=False, traces=False, exit_timeout_s=3.0)
emit(1000)
time.sleep(1.0)
before, peak = resident_mb(), 0.0
for part in range({parts}):
    emit(10_000)
    peak = max(peak, resident_mb())
start = time.monotonic()
telemetry.close()
stats = telemetry.stats()
print("RESULT", json.dumps([
    peak - before, time.monotonic() - start,
    stats.events_emitted, stats.events_processed, sum(stats.events_dropped.values()),
    stats.points_extracted, stats.points_sent, stats.points_kept, sum(stats.points_dropped.values()),
]), flush=True)
"""


@pytest.mark.parametrize("parts", [5, pytest.param(100, marks=pytest.mark.faults)])
def test_flood_against_a_hung_server_is_bounded_and_counted_and_arrives_later(
    mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str, parts: int
) -> None:
    import json

    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
    proxy.set_mode("hang")
    ended = run_script(FLOOD.format(parts=parts), proxy.uri, timeout_s=PATIENCE_S * 2)
    assert ended.code == 0, ended.output
    grown_mb, exit_s, emitted, processed, dropped, extracted, sent, kept, lost = json.loads(
        ended.output.partition("RESULT ")[2].splitlines()[0]
    )
    assert emitted == parts * 10_000 + 1000 == processed + dropped
    assert extracted == sent + kept + lost == processed
    assert grown_mb < 64
    assert exit_s < 15.0
    proxy.set_mode("pass")
    proxy.drop_connections()
    assert main(["sync"]) == 0
    (run,) = mlflow_server.runs(experiment)
    steps = [point.step for point in mlflow_server.points(run.run_id, "trainer/loss")]
    assert len(steps) == kept


def test_two_runs_share_a_folder(mlflow_server: MlflowServer, experiment: str) -> None:
    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
    body = """
    with configure(run_name=sys.argv[0] or "x"):
        for part in range(20):
            emit(10, start=part * 10)
            time.sleep(0.05)
    """
    with start_script(body, mlflow_server.uri) as first, start_script(body, mlflow_server.uri) as second:
        assert [first.wait(PATIENCE_S), second.wait(PATIENCE_S)] == [0, 0]
    runs = mlflow_server.runs(experiment)
    assert [run.status for run in runs] == ["FINISHED", "FINISHED"]
    for run in runs:
        assert sorted(point.step for point in mlflow_server.points(run.run_id)) == list(range(200))


DISK = """
import subprocess
telemetry = configure(spool_dir=sys.argv[1], exit_timeout_s=60.0)
step = 0
others = {f"m{i}": 0.1 * i for i in range(200)}   # much to store, little to show
def log_for(seconds):
    global step
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        log.info("train", category="TRAINER", loss=step / 7, timesteps=step, **others)
        step += 1
        time.sleep(0.02)
log_for(0.5)
print("ready", flush=True)
while telemetry._life.parts._export._spool.path is not None:
    log_for(0.5)          # until the disk is full
log_for(1.0)
subprocess.run(["mount", "-o", "remount,size=256m", sys.argv[1]], check=True)
while telemetry._life.parts._export._spool.path is None:
    log_for(0.5)          # until it is used again
print("recovered", flush=True)
sys.stdin.readline()
telemetry.flush(60.0)
telemetry.close()
stats = telemetry.stats()
assert stats.events_emitted == step == stats.events_processed + sum(stats.events_dropped.values()), stats
assert stats.points_extracted == stats.points_sent + stats.points_kept + sum(stats.points_dropped.values()), stats
assert stats.points_dropped == {} and stats.points_kept == 0, stats
print("RESULT", step, flush=True)
"""


@pytest.mark.faults
def test_disk_that_fills_and_is_freed(
    mlflow_server: MlflowServer, proxy: ToxicProxy, experiment: str, tmp_path: Path
) -> None:
    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount -t tmpfs -o size=2m none "$0" && exec "$@"',
        str(disk),
    ]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here (unshare --mount --map-root-user)")
    proxy.set_mode("stall")
    with start_script(DISK, proxy.uri, prefix=mount, arguments=[str(disk)]) as process:
        output = wait_for_line(process, "recovered")
        proxy.set_mode("pass")
        output += process.communicate("go\n", timeout=PATIENCE_S * 2)[0]
    assert process.returncode == 0, output
    warnings = [line for line in output.splitlines() if "the spool cannot be used on disk" in line]
    assert len(warnings) == 1, [line for line in output.splitlines() if "spool" in line]
    assert "the spool is on disk again" in output
    (run,) = mlflow_server.runs(experiment)
    steps = [point.step for point in mlflow_server.points(run.run_id, "trainer/loss")]
    assert len(steps) == len(set(steps)) == int(output.partition("RESULT ")[2].split()[0])


@pytest.fixture(scope="module")
def own_server() -> Iterator[RealMlflow]:
    """A server that may be stopped."""
    with RealMlflow() as server:
        yield server


@pytest.mark.faults
def test_server_that_is_frozen_and_thawed(own_server: RealMlflow) -> None:
    training = Training(own_server.uri)
    assert training.telemetry.wait_ready(PATIENCE_S)
    training.log_for(1.0)
    own_server.suspend()
    training.log_for(12.0)
    own_server.resume()
    training.log_for(1.0)
    training.finish(own_server)


@pytest.mark.faults
def test_server_that_is_restarted_on_its_database(own_server: RealMlflow) -> None:
    training = Training(own_server.uri)
    assert training.telemetry.wait_ready(PATIENCE_S)
    training.log_for(1.0)
    own_server.stop()
    training.log_for(5.0)
    own_server.launch()
    training.log_for(5.0)
    own_server.wait()
    training.finish(own_server)


@pytest.mark.tunnel
def test_tunnel_whose_client_then_session_is_killed_and_whose_laptop_sleeps(
    mlflow_server: MlflowServer, experiment: str, ssh_server: SshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server_port = int(mlflow_server.uri.rpartition(":")[2])
    tunnel = ssh_server.tunnel(_free_port(), server_port)
    port = tunnel.remote_port
    training = Training(tunnel.uri, experiment_id=experiment, console="json")
    assert training.telemetry.wait_ready(PATIENCE_S)
    training.log_for(1.0)
    tunnel.close()  # the client is killed
    training.log_for(5.0)
    tunnel = ssh_server.tunnel(port, server_port)
    wait_for(lambda: training.telemetry.stats().points_kept < 10)
    training.log_for(1.0)
    ssh_server.end_sessions()  # the session is killed
    tunnel.wait_for_end()
    training.log_for(3.0)
    tunnel = ssh_server.tunnel(port, server_port)
    wait_for(lambda: training.telemetry.stats().points_kept < 10)
    tunnel.suspend()  # the laptop sleeps
    training.log_for(5.0)
    tunnel.resume()
    training.finish(mlflow_server)
    said = capsys.readouterr().err
    assert "SSH tunnel is down" in said
    assert said.count("does not take data") <= 3, "at most one line in half a minute"
    assert training.slowest_s < 1.0
    tunnel.close()


@pytest.mark.tunnel
def test_run_that_begins_before_the_tunnel(mlflow_server: MlflowServer, experiment: str, ssh_server: SshServer) -> None:
    port, server_port = _free_port(), int(mlflow_server.uri.rpartition(":")[2])
    training = Training(f"http://localhost:{port}", experiment_id=experiment)
    training.log_for(2.0)
    tunnel = ssh_server.tunnel(port, server_port)
    assert training.telemetry.wait_ready(PATIENCE_S)
    training.log_for(1.0)
    training.finish(mlflow_server)
    tunnel.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
