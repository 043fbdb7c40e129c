"""docs/tunnel.md as it is written: each of its commands is run; its laptop and its host are two homes on this machine.

The host is a real sshd on loopback. Only what a reader would put in its place is replaced: addresses, user, key, and
the ports, since laptop and host cannot both have 5000 here; durations are shortened. What the tables of failures say
is compared with what a training, `rltelemetry doctor` and ssh say when the failure is produced.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from documents import ROOT, Block, blocks_of

from rltelemetry.testing import MlflowServer, RealMlflow, SshServer
from rltelemetry.testing.ssh_server import missing_programs

pytestmark = [pytest.mark.mlflow, pytest.mark.tunnel, pytest.mark.timeout(400)]

RUNBOOK = ROOT / "docs" / "tunnel.md"
PATIENCE_S = 90.0
POLL_S = 0.05

SHIMS = {
    # OpenSSH looks for its configuration in the password file's home, wherever HOME points
    "ssh": 'exec {real} -F "$HOME/.ssh/config" "$@"',
    "ppo": 'exec {real} "$@" --training-core.total-timesteps 4096 --evaluation.num-eval-episodes 4',
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(POLL_S)


@dataclass
class Running:
    """A command that stays."""

    process: "subprocess.Popen[str]"
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for_end(self) -> int:
        return self.process.wait(PATIENCE_S)

    def suspend(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Place:
    """A machine of the runbook: a home and a directory to work in, with what a reader would write in place of names."""

    home: Path
    words: dict[str, str]
    environ: dict[str, str]
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / "configs").symlink_to(ROOT / "configs")
        shims = self.home / ".shims"
        shims.mkdir()
        beside = Path(sys.executable).parent
        for name, line in SHIMS.items():
            real = beside / name if (beside / name).exists() else shutil.which(name)
            (shims / name).write_text(f"#!/bin/sh\n{line.format(real=real)}\n")
            (shims / name).chmod(0o755)
        path = f"{shims}:{beside}:{os.environ['PATH']}"
        self.environ = {**os.environ, "HOME": str(self.home), "PATH": path, "OMP_NUM_THREADS": "1", **self.environ}
        self.environ["XDG_STATE_HOME"] = str(self.home / "state")

    def text_of(self, block: Block | str) -> str:
        text = block if isinstance(block, str) else block.text
        for word, meant in self.words.items():
            text = text.replace(word, meant)
        return text

    def run(self, block: Block | str, code: int = 0) -> str:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.text_of(block)],
            env=self.environ, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE_S * 2, check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def start(self, block: Block | str) -> Running:
        output = self.home / f"output-{len(self.running)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-c", self.text_of(block)],
                env=self.environ, cwd=self.home, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
            )  # fmt: skip
        self.running.append(Running(process, output))
        return self.running[-1]

    def stop(self) -> None:
        for each in self.running:
            each.stop()


@dataclass
class Scene:
    """Laptop and host, and the runbook's configuration for the way between them."""

    laptop: Place
    host: Place
    sshd: SshServer
    inner_sshd: SshServer
    host_port: int
    laptop_port: int
    other_port: int

    @property
    def host_uri(self) -> str:
        return f"http://localhost:{self.host_port}"

    def connect(self, command: str = "ssh -N trainer") -> Running:
        """Open the tunnel as step 2 does."""
        tunnel = self.laptop.start(command)
        wait_for(lambda: is_open(self.host_port), f"the tunnel is open; ssh says: {tunnel.said}")
        return tunnel

    def write_ssh_config(self) -> None:
        """Write the configuration that the page shows, all of it."""
        shown = [
            block.text for block in blocks_of(RUNBOOK) if (block.language, block.words) == ("ssh_config", "laptop")
        ]
        stanzas = [f"Host {stanza}" for text in shown for stanza in re.split(r"^Host ", text, flags=re.MULTILINE)[1:]]
        lines = [self._stanza(stanza) for stanza in stanzas]
        known = self.laptop.home / ".ssh" / "known"
        known.write_text(self.sshd.known_hosts.read_text() + self.inner_sshd.known_hosts.read_text())
        lines.append(f"Host *\n    UserKnownHostsFile {known}\n    IdentitiesOnly yes\n    BatchMode yes\n")
        (self.laptop.home / ".ssh" / "config").write_text("\n".join(lines))

    def _stanza(self, text: str) -> str:
        sshd = self.inner_sshd if "10.0.0.17" in text else self.sshd
        text = re.sub(r"^( *HostName) .*$", rf"\1 127.0.0.1\n    Port {sshd.port}", text, flags=re.MULTILINE)
        text = text.replace("User me", f"User {sshd.user}").replace("~/.ssh/id_ed25519", str(sshd.key))
        text = text.replace("172.17.0.1:5000", f"127.0.0.2:{self.host_port}")
        text = text.replace("RemoteForward 5000", f"RemoteForward {self.host_port}")
        text = text.replace("localhost:5000", f"localhost:{self.laptop_port}")
        return text.replace("ServerAliveInterval 15", "ServerAliveInterval 1")


@pytest.fixture
def scene(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[Scene]:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install openssh-server openssh-client)")
    host_port, other_port = free_port(), free_port()
    laptop_port = int(mlflow_server.uri.rpartition(":")[2])
    laptop = Place(
        tmp_path / "laptop",
        {
            "-R 5001:localhost:5000": f"-R {other_port}:localhost:{laptop_port}",
            "-L 5001:localhost:5001": f"-L {other_port}:localhost:{host_port}",
        },
        {
            "AUTOSSH_PATH": str(tmp_path / "laptop" / ".shims" / "ssh"),
            "AUTOSSH_GATETIME": "0",  # else a first connection of less than half a minute is taken for a mistake
            "MLFLOW_WORKERS": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
    )
    words = {"localhost:5000": f"localhost:{host_port}", "localhost:5001": f"localhost:{other_port}"}
    host = Place(tmp_path / "host", words, {"MLFLOW_TRACKING_URI": f"http://localhost:{host_port}"})
    with SshServer() as sshd, SshServer() as inner_sshd:
        made = Scene(laptop, host, sshd, inner_sshd, host_port, laptop_port, other_port)
        made.write_ssh_config()
        try:
            yield made
        finally:
            laptop.stop()
            host.stop()


def marked_blocks() -> dict[str, list[Block]]:
    """The commands of each section, in order."""
    found: dict[str, list[Block]] = {}
    lines = RUNBOOK.read_text().splitlines()
    for block in blocks_of(RUNBOOK):
        if {"laptop", "host"} & {*block.words.split()} and block.language == "bash":
            titles = [line.lstrip("# ") for line in lines[: block.line] if re.match("##+ ", line)]
            found.setdefault(titles[-1], []).append(block)
    return found


def rows_under(title: str) -> list[list[str]]:
    """The rows of the tables of a section."""
    section = RUNBOOK.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


TRAINING = """
import sys, time, structlog, rltelemetry
settings = dict(console="json", system_metrics=False, request_timeout_s=1.0, exit_timeout_s=2.0)
with rltelemetry.configure(**settings) as telemetry:
    log, step = structlog.get_logger("training"), 0
    while not telemetry_is_over():
        with telemetry.span("update", update=step):
            log.info("train", category="TRAINER", loss=step / 7, timesteps=step)
        step += 1
        time.sleep(0.02)
print("LOGGED", step, flush=True)
"""


class Training:
    """A training on the host, in the place of `ppo`, that goes on until it is told to end."""

    def __init__(self, scene: Scene, **environ: str) -> None:
        self._over = scene.host.home / f"over-{time.monotonic_ns()}"
        program = TRAINING.replace("telemetry_is_over()", f"__import__('os').path.exists({str(self._over)!r})")
        exports = "".join(f"export {name}={value}\n" for name, value in environ.items())
        self._running = scene.host.start(f"{exports}exec python -c '\n{program.replace(chr(39), chr(34))}'")

    @property
    def said(self) -> str:
        return self._running.said

    def wait_until_it_says(self, text: str) -> None:
        wait_for(lambda: text in self.said, f"{text!r} in {self.said[-3000:]}")

    def end(self) -> int:
        """End it; returns how many points it has logged."""
        self._over.touch()
        assert self._running.wait_for_end() == 0, self.said
        return int(self.said.rpartition("LOGGED ")[2])


def assert_all_there(server: MlflowServer, run_id: str, num_points: int) -> None:
    stored = Counter((point.step, point.value) for point in server.points(run_id, "trainer/loss"))
    assert stored == Counter((step, step / 7) for step in range(num_points))


def assert_nothing_is_lost(scene: Scene, training: Training, server: MlflowServer) -> None:
    """End a training, send what it could not, and compare."""
    num_points = training.end()
    scene.host.run("rltelemetry sync --wait")
    assert_all_there(server, run_of(training), num_points)


def ssh_message(word: str, port: int) -> str:
    """What ssh says, as the page quotes it."""
    (message,) = [row[0].strip("`") for row in rows_under("What each failure looks like") if word in row[0]]
    return message.replace("5000", str(port)).replace("gpu-host.example.org", "127.0.0.1")


def run_of(training: Training) -> str:
    return training.said.rpartition("/runs/")[2].partition('"')[0]


def each_time(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    mlflow, tunnel, doctor, ppo = blocks
    scene.laptop_port = free_port()
    scene.write_ssh_config()
    scene.laptop.start(mlflow.text.replace("5000", str(scene.laptop_port)))
    wait_for(lambda: is_open(scene.laptop_port), "MLflow listens")
    scene.connect(tunnel.text)
    assert "all is well" in scene.host.run(doctor)
    said = scene.host.run(ppo)
    assert f"MLflow run: {scene.host_uri}/#/experiments/0/runs/" in said
    assert "0 kept" in said, "everything has arrived when it ends"


def by_hand(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    scene.connect()
    (curl,) = blocks
    answers = scene.host.run(curl)
    assert answers.startswith("OK")
    assert '"store_type"' in answers
    assert "SqlStore" in answers
    assert answers.rstrip().endswith("400")


def slept(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    loop, autossh = blocks
    survive_a_dead_line(scene, loop, server)
    if shutil.which("autossh"):
        survive_a_dead_line(scene, autossh, server)


def survive_a_dead_line(scene: Scene, command: Block, server: MlflowServer) -> None:
    training = Training(scene)
    tunnel = scene.connect(command.text)
    training.wait_until_it_says("MLflow run: ")
    scene.sshd.suspend_sessions()  # nothing is heard of the host, which holds the port
    given_up, is_held = (ssh_message(word, scene.host_port) for word in ("Timeout", "forwarding failed"))
    wait_for(lambda: given_up in tunnel.said, "ssh gives the dead line up")
    wait_for(lambda: is_held in tunnel.said, "the port is held")
    scene.sshd.end_sessions()  # the host has noticed
    wait_for(lambda: is_open(scene.host_port), "the tunnel is open again")
    assert_nothing_is_lost(scene, training, server)
    tunnel.stop()
    wait_for(lambda: not is_open(scene.host_port), "the port is free again")


def port_is_held(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    other_port, doctor = blocks
    title = "Error: remote port forwarding failed for listen port 5000"
    with SshServer(options=_sshd_config("ClientAlive").replace("5", "1")) as scene.sshd:
        scene.write_ssh_config()
        scene.connect().suspend()
        second = scene.laptop.start("ssh -N trainer")
        assert second.wait_for_end() == 255
        assert title.replace("5000", str(scene.host_port)) in second.said
        scene.laptop.start(other_port)
        wait_for(lambda: is_open(scene.other_port), "the other port is open")
        assert "all is well" in scene.host.run(doctor)
        wait_for(lambda: "client not responding" in scene.sshd.said(), "the host notices")
        wait_for(lambda: not is_open(scene.host_port), "it lets go of the port")


def laptop_was_not_there(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    sync, tail = blocks
    training = Training(scene)
    training.wait_until_it_says('"timesteps": 30')
    num_points = training.end()
    assert f"points: 0 sent, {num_points} kept" in training.said
    assert "send it with: rltelemetry sync" in training.said
    assert f"{num_points} points" in scene.host.run(tail)
    assert "1 of 1 spools" in scene.host.run(sync, code=1)
    waiting = scene.host.start("rltelemetry sync --wait")
    scene.connect()
    assert waiting.wait_for_end() == 0, waiting.said
    assert "nothing is left" in scene.host.run(sync)
    (run_id,) = set(re.findall(r"/runs/(\w+)", waiting.said))
    assert server.run(run_id).status == "FINISHED"
    assert_all_there(server, run_id, num_points)


def jump_host(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    (ssh,) = blocks
    scene.connect(ssh.text)
    assert "all is well" in scene.host.run("rltelemetry doctor http://localhost:5000")
    scene.inner_sshd.end_sessions()
    wait_for(lambda: not is_open(scene.host_port), "the tunnel ended on the last host")


def container(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    (ssh,) = [block for block in blocks if block.excuse is None]
    scene.laptop.start(ssh)
    wait_for(lambda: is_open(scene.host_port), "without the option the port is the host's own")
    assert not is_open(scene.host_port, "127.0.0.2")
    with SshServer(options=_sshd_config("GatewayPorts")) as scene.sshd:
        scene.host_port = free_port()
        scene.write_ssh_config()
        scene.laptop.start(ssh)
        wait_for(lambda: is_open(scene.host_port, "127.0.0.2"), "others reach the port")
        assert not is_open(scene.host_port)
    assert status_for_name(server, "172.17.0.1:5000") == 200
    assert status_for_name(server, "host.docker.internal:5000") == 403


def other_direction(scene: Scene, blocks: list[Block], server: MlflowServer) -> None:
    up, ssh = blocks
    try:
        said = scene.host.run(up)
        scene.laptop.words["-L 5001:localhost:5001"] = f"-L {scene.other_port}:{said.split('http://')[1].split()[0]}"
        scene.laptop.start(ssh)
        wait_for(lambda: is_open(scene.other_port), "the laptop's port is open")
        with contextlib.closing(http.client.HTTPConnection("localhost", scene.other_port, timeout=10)) as page:
            page.request("GET", "/health")
            assert page.getresponse().read() == b"OK"
    finally:
        scene.host.run("rltelemetry down")


SCENARIOS = {
    "Each time": each_time,
    "Without this package: the same examination by hand": by_hand,
    "The laptop slept, or the network changed": slept,
    "`Error: remote port forwarding failed for listen port 5000`": port_is_held,
    "The training is over, and the laptop was not there": laptop_was_not_there,
    "By way of a jump host": jump_host,
    "In a container on the host": container,
    "The other direction": other_direction,
}


def _sshd_config(word: str) -> str:
    """What the page wants in the host's configuration."""
    (text,) = [block.text for block in blocks_of(RUNBOOK) if block.language == "sshd_config" and word in block.text]
    return text


def status_for_name(server: MlflowServer, name: str) -> int:
    """What MLflow answers somebody who reaches it under a name."""
    with contextlib.closing(http.client.HTTPConnection(server.uri.removeprefix("http://"), timeout=10)) as connection:
        connection.request("GET", "/api/3.0/mlflow/server-info", headers={"Host": name})
        return connection.getresponse().status


def test_every_section_with_commands_is_tried() -> None:
    assert SCENARIOS.keys() == marked_blocks().keys()


LONG = {"Each time", "The laptop slept, or the network changed", "The other direction"}
"""Sections that start MLflow themselves, or wait for ssh to notice something."""


@pytest.mark.parametrize(
    "section",
    [pytest.param(name, marks=pytest.mark.faults) if name in LONG else name for name in SCENARIOS],
)
def test_commands_of_section(section: str, scene: Scene, mlflow_server: MlflowServer) -> None:
    pytest.importorskip("torch")
    SCENARIOS[section](scene, marked_blocks()[section], mlflow_server)


class Failure(NamedTuple):
    """A row of the page's table of failures."""

    what: str
    console: str
    doctor: str

    @property
    def checks(self) -> list[str]:
        """The checks that fail."""
        return re.findall(r"`(\w+)` fails", self.doctor)


def table_of_failures() -> dict[str, Failure]:
    rows = rows_under("What each failure looks like")
    return {row[0]: Failure(*row[:3]) for row in rows if len(row) == 4 and row[0] != "what happened"}


TUNNEL_CLOSED = "the tunnel is closed, the session was cut, the laptop lost its network"
NO_MLFLOW = "the tunnel is up, MLflow is not"
ASLEEP = "the laptop sleeps"
PORT_HELD = "the port is held"
OTHER_NAME = "another name than localhost"
WRONG_PATH = "a wrong path, a missing prefix"
FILE_STORE = "MLflow on a file store"


def assert_said_and_examined(scene: Scene, failure: Failure, training: Training, uri: str) -> None:
    """The training's console says what the table says, and the doctor names the check."""
    for sentence in re.split(r"(?<=\.) ", failure.console):
        training.wait_until_it_says(sentence.rstrip("."))
    report = json.loads(scene.host.run(f"rltelemetry doctor {uri} --json --read-only", code=1))
    assert report["failed"] == failure.checks


def test_every_failure_of_the_table_is_produced() -> None:
    produced = {TUNNEL_CLOSED, NO_MLFLOW, ASLEEP, PORT_HELD, OTHER_NAME, WRONG_PATH, FILE_STORE}
    assert table_of_failures().keys() == produced
    messages = [row for row in rows_under("What each failure looks like") if len(row) == 3]
    assert len(messages) == 1 + len(["connect_to", "Timeout", "forwarding failed"])


@pytest.mark.faults
@pytest.mark.parametrize("what", [TUNNEL_CLOSED, NO_MLFLOW, ASLEEP])
def test_broken_way_looks_as_the_table_says_and_loses_nothing(
    what: str, scene: Scene, mlflow_server: MlflowServer
) -> None:
    tunnel = scene.connect()
    training = Training(scene)
    training.wait_until_it_says("MLflow run: ")
    if what == ASLEEP:
        tunnel.suspend()
    else:
        scene.sshd.end_sessions()
        assert tunnel.wait_for_end() == 255
    if what == NO_MLFLOW:
        good_port, scene.laptop_port = scene.laptop_port, free_port()
        scene.write_ssh_config()
        tunnel = scene.connect()
    assert_said_and_examined(scene, table_of_failures()[what], training, scene.host_uri)
    if what == NO_MLFLOW:
        assert ssh_message("connect_to", scene.laptop_port) in tunnel.said
        tunnel.stop()
        scene.laptop_port = good_port
        scene.write_ssh_config()
    if what == ASLEEP:
        os.killpg(tunnel.process.pid, signal.SIGCONT)
    else:
        wait_for(lambda: not is_open(scene.host_port), "the port is free")
        scene.connect()
    training.wait_until_it_says("MLflow takes data again")
    assert_nothing_is_lost(scene, training, mlflow_server)


@pytest.mark.parametrize("what", [OTHER_NAME, WRONG_PATH])
def test_wrong_address_looks_as_the_table_says_and_loses_nothing(
    what: str, scene: Scene, mlflow_server: MlflowServer
) -> None:
    scene.connect()
    uri = f"http://127.1:{scene.host_port}" if what == OTHER_NAME else f"{scene.host_uri}/mlflow"
    training = Training(scene, MLFLOW_TRACKING_URI=uri)
    assert_said_and_examined(scene, table_of_failures()[what], training, uri)
    num_points = training.end()
    said = scene.host.run(f"rltelemetry sync --tracking-uri {scene.host_uri}")
    (run_id,) = set(re.findall(r"/runs/(\w+)", said))
    assert_all_there(mlflow_server, run_id, num_points)


@pytest.mark.faults
def test_file_store_looks_as_the_table_says_and_loses_no_metrics(scene: Scene) -> None:
    store, allowed = ("--backend-store-uri", "./mlruns"), {"MLFLOW_ALLOW_FILE_STORE": "true"}
    with RealMlflow(options=store, environ=allowed) as on_files:
        scene.laptop_port = on_files.port
        scene.write_ssh_config()
        scene.connect()
        training = Training(scene)
        assert_said_and_examined(scene, table_of_failures()[FILE_STORE], training, scene.host_uri)
        assert_nothing_is_lost(scene, training, on_files)
