"""An MLflow server of one's own, where none is configured: found, started, shared, stopped.

It is one subprocess in a session of its own, on loopback only, with MLflow's own conventions (`mlflow.db`,
`mlartifacts` in the working directory), so that `mlflow ui` there shows the same runs. It outlives the training that
started it; what it is and where stands in `.rltelemetry/server.json`, under a lock, so that runs share it. Nobody waits
for it: the spool bridges the seconds that it needs.
"""

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rltelemetry.errors import MissingExtraError, ServerError
from rltelemetry.locks import locked
from rltelemetry.ports import claimed_port
from rltelemetry.processes import end_group, spawn_detached, start_mark

__all__ = [
    "DEFAULT_URI",
    "EmbeddedServer",
    "answers",
    "command",
    "ensure",
    "environment",
    "find",
    "is_answering",
    "recorded",
    "stop",
]

DEFAULT_URI: Final = "http://localhost:5000"
"""Where a local server, or an SSH tunnel to one, is by convention."""

HOST: Final = "127.0.0.1"
"""Loopback, and never anything else: whoever reaches the server can read and write everything in it."""

FIRST_PORT: Final = 5001
"""Never 5000: a later `ssh -R 5000` needs it."""

LAST_PORT: Final = 5100
START_S: Final = 180.0
"""A server that is older than this and does not listen never will."""

STOP_S: Final = 5.0
MAX_ANSWER: Final = 2**16


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that this project started.

    Attributes:
        uri: its address.
        pid: its process, and the leader of its session.
        started: when that process started, as `processes.start_mark` tells it.
        log: what it prints.
        is_new: whether this call started it.
    """

    uri: str
    pid: int
    started: str
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
            info = json.loads(answer.read(MAX_ANSWER))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return isinstance(info, dict) and "store_type" in info


def is_answering(server: EmbeddedServer, timeout_s: float) -> bool:
    """Wait until a server answers; False if it died or the time is up. Its log says why."""
    deadline = time.monotonic() + timeout_s
    while _is_alive(server):
        if answers(server.uri, 1.0):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.25)
    return False


def ensure(directory: Path | None = None) -> EmbeddedServer:
    """Return the server of a directory, starting it if it does not run; does not wait until it answers.

    Raises:
        MissingExtraError: mlflow is not installed.
        ServerError: the directory cannot be written, or no port is free.
    """
    place = (directory or Path.cwd()).absolute()
    with locked(_folder(place)):
        known = recorded(place)
        if known is not None and not _is_broken(known, place):
            return known
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtraError("an MLflow server of your own needs mlflow: pip install 'rltelemetry[mlflow]'")
        if known is not None:
            end_group(known.pid, known.started, STOP_S)
        server = _start(place)
        _record(place, server)
        return replace(server, is_new=True)


def recorded(directory: Path) -> EmbeddedServer | None:
    """Return the server that runs for a directory, None if there is none."""
    try:
        server = EmbeddedServer(**{**json.loads(_record_path(directory).read_text()), "is_new": False})
    except (OSError, ValueError, TypeError):
        return None
    is_sound = isinstance(server.pid, int) and str(server.uri).startswith(f"http://{HOST}:")
    return server if is_sound and _is_alive(server) else None


def stop(directory: Path | None = None) -> EmbeddedServer | None:
    """Stop the server of a directory and return what it was; None if none ran.

    Raises:
        ServerError: the directory cannot be written.
    """
    place = (directory or Path.cwd()).absolute()
    if not _record_path(place).exists():
        return None
    with locked(_folder(place)):
        server = recorded(place)
        if server is not None:
            end_group(server.pid, server.started, STOP_S)
        _record_path(place).unlink(missing_ok=True)
        return server


def command(port: int) -> list[str]:
    """Return the command line of a light server: one worker, everything in the directory in which it runs."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "./mlartifacts"),
    ]


def environment() -> dict[str, str]:
    """Return this process's environment for a server: without what speaks of clients, and without reports home."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("MLFLOW_SERVER_") or not name.startswith(("MLFLOW_", "OTEL_"))
    }
    # With the working directory on the path, a file mlflow.py in it would be taken for MLflow.
    light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
    return {**inherited, **light, "MLFLOW_DISABLE_TELEMETRY": "true"}


def _start(directory: Path) -> EmbeddedServer:
    log = _folder(directory) / "server.log"
    with claimed_port(HOST, FIRST_PORT, LAST_PORT) as claim:
        try:
            pid = spawn_detached(command(claim.port), directory, environment(), log)
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerError(f"the MLflow server cannot be started: {error}") from None
        mark = start_mark(pid)
        claim.give_to(pid, mark)
    return EmbeddedServer(f"http://{HOST}:{claim.port}", pid, mark, str(log))


def _is_alive(server: EmbeddedServer) -> bool:
    return bool(server.started) and start_mark(server.pid) == server.started


def _is_broken(server: EmbeddedServer, directory: Path) -> bool:
    """Whether a server that lives will never answer: it had time, and nobody listens. A busy one is not broken."""
    if time.time() - _record_path(directory).stat().st_mtime < START_S:
        return False
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, int(server.uri.rpartition(":")[2]))) != 0


def _record(directory: Path, server: EmbeddedServer) -> None:
    """Write the record at one stroke: half of one would lead to a second server on the same database."""
    unfinished = _record_path(directory).with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(server), indent=2))
    unfinished.replace(_record_path(directory))


def _folder(directory: Path) -> Path:
    return directory / ".rltelemetry"


def _record_path(directory: Path) -> Path:
    return _folder(directory) / "server.json"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
