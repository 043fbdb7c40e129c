"""An MLflow server of one's own, where none is configured: found, started, shared, stopped.

It is one subprocess in a session of its own, on loopback only, with MLflow's own conventions (`mlflow.db`, `mlartifacts`
in the working directory), so that `mlflow ui` there shows the same runs. It outlives the training that started it; what
it is and where stands in `.rltelemetry/server.json`, under a lock, so that runs share it. Nobody waits for it: the spool
bridges the seconds that it needs.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rltelemetry.errors import MissingExtraError, ServerError

__all__ = ["DEFAULT_URI", "EmbeddedServer", "answers", "ensure", "find", "is_answering", "recorded", "stop"]

DEFAULT_URI: Final = "http://localhost:5000"
"""Where a local server, or an SSH tunnel to one, is by convention."""

FIRST_PORT: Final = 5001
"""Never 5000: a later `ssh -R 5000` needs it."""

LAST_PORT: Final = 5100
STOP_S: Final = 5.0
HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that this project started.

    Attributes:
        uri: its address.
        pid: its process, and the leader of its session.
        started: the process's start time in clock ticks: a pid alone may be somebody else's by now.
        log: what it prints.
        is_new: whether this call started it.
    """

    uri: str
    pid: int
    started: int
    log: str
    is_new: bool = False


def find(uri: str = DEFAULT_URI, timeout_s: float = 0.5) -> str | None:
    """Return `uri` if an MLflow server answers there."""
    return uri if answers(uri, timeout_s) else None


def answers(uri: str, timeout_s: float) -> bool:
    """Whether an MLflow server answers; a green /health would prove less, since it skips the Host check."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(f"{uri}/api/3.0/mlflow/server-info", timeout=timeout_s) as answer:
            return "store_type" in json.load(answer)
    except (OSError, ValueError, TypeError):
        return False


def is_answering(server: EmbeddedServer, timeout_s: float) -> bool:
    """Wait until a server answers; False if it died or the time is up. Its log says why."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and _is_alive(server):
        if answers(server.uri, 1.0):
            return True
        time.sleep(0.25)
    return False


def ensure(directory: Path | None = None) -> EmbeddedServer:
    """Return the server of a directory, starting it if it does not run; does not wait until it answers.

    Raises:
        MissingExtraError: mlflow is not installed.
        ServerError: the directory cannot be written, or no port is free.
    """
    place = directory or Path.cwd()
    with _locked(place):
        known = recorded(place)
        if known is not None:
            return known
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtraError("an MLflow server of your own needs mlflow: pip install 'rltelemetry[mlflow]'")
        server = _start(place)
        _record_path(place).write_text(json.dumps(asdict(server), indent=2))
        return server


def recorded(directory: Path) -> EmbeddedServer | None:
    """Return the server that runs for a directory, None if there is none."""
    try:
        server = EmbeddedServer(**{**json.loads(_record_path(directory).read_text()), "is_new": False})
    except (OSError, ValueError, TypeError):
        return None
    return server if _is_alive(server) else None


def stop(directory: Path | None = None) -> EmbeddedServer | None:
    """Stop the server of a directory and return what it was; None if none ran.

    Raises:
        ServerError: the directory cannot be written.
    """
    place = directory or Path.cwd()
    if not _record_path(place).exists():
        return None
    with _locked(place):
        server = recorded(place)
        if server is not None:
            _signal(server, signal.SIGTERM)
            deadline = time.monotonic() + STOP_S
            while _is_alive(server) and time.monotonic() < deadline:
                time.sleep(0.05)
            _signal(server, signal.SIGKILL)  # whatever of its session is left, workers included
        _record_path(place).unlink(missing_ok=True)
        return server


def _start(directory: Path) -> EmbeddedServer:
    port = _free_port()
    log = _folder(directory) / "server.log"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "./mlartifacts"),
    ]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        environ.pop(name, None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    _children[process.pid] = process
    return EmbeddedServer(f"http://{HOST}:{port}", process.pid, _start_ticks(process.pid), str(log), is_new=True)


_children: dict[int, "subprocess.Popen[bytes]"] = {}
"""Servers that this very process started: they must be reaped here when they end."""


def _is_alive(server: EmbeddedServer) -> bool:
    child = _children.get(server.pid)
    if child is not None and child.poll() is not None:
        return False
    return server.started > 0 and _start_ticks(server.pid) == server.started


def _signal(server: EmbeddedServer, number: signal.Signals) -> None:
    """Signal the server's whole session; the group exists as long as one of its processes does."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, number)


def _start_ticks(pid: int) -> int:
    """The start time of a process; 0 if there is none (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _start_ticks_without_proc(pid)
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _start_ticks_without_proc(pid: int) -> int:
    """On systems without /proc a pid is all there is: 1 stands for "it lives"."""
    if Path("/proc/self").exists():
        return 0
    try:
        os.kill(pid, 0)
    except OSError:
        return 0
    return 1


def _free_port() -> int:
    for port in range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise ServerError(
        f"no loopback port from {FIRST_PORT} to {LAST_PORT} is free. Give --logging.tracking-uri instead."
    )


def _folder(directory: Path) -> Path:
    return directory / ".rltelemetry"


def _record_path(directory: Path) -> Path:
    return _folder(directory) / "server.json"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time decide; the kernel drops the lock of a process that dies."""
    try:
        _folder(directory).mkdir(exist_ok=True)
        lock = (_folder(directory) / "lock").open("w")
    except OSError as error:
        raise ServerError(
            f"{_folder(directory)} cannot be written ({error.strerror}). "
            "Start in a directory of your own, or give the address of an MLflow server."
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
