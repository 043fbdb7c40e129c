"""A real MLflow server in a directory of its own."""

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rltelemetry.server import command, environment
from rltelemetry.testing.exchange import Answer, send
from rltelemetry.testing.mlflow_server import MlflowServer

__all__ = ["RealMlflow"]

HOST: Final = "127.0.0.1"
START_S: Final = 120.0
"""It takes 10 s on an idle machine, and was seen to take 60 s on a busy one."""

STOP_S: Final = 10.0
POLL_S: Final = 0.1


class RealMlflow(MlflowServer):
    """A context manager: `mlflow server` on sqlite, one worker, no jobs; it runs inside the block.

    Args:
        directory: where database, artifacts and log go; None makes one and removes it at the end.
        port: where to listen; 0 takes a free one.
        options: further command line options of `mlflow server`.
        environ: further environment variables of the server.
        static_prefix: a path before every route, `/mlflow` say.
    """

    def __init__(
        self,
        directory: Path | None = None,
        port: int = 0,
        options: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        static_prefix: str = "",
    ) -> None:
        self._own_directory = None if directory else tempfile.TemporaryDirectory(prefix="mlflow-")
        self.directory = directory or Path(self._own_directory.name if self._own_directory else ".")
        self.port = port or _free_port()
        self._options = (*options, *(("--static-prefix", static_prefix) if static_prefix else ()))
        self._path = static_prefix
        self._environ = environ or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://{HOST}:{self.port}{self._path}"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """The launcher's process id, which is also that of its group.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError("the MLflow server: got a question about a stopped one; expected start() before.")
        return self._process.pid

    def start(self) -> None:
        """Start on the same database and port, and wait until it answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the message has the end of its log.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start without waiting."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command(self.port), *self._options],
                cwd=self.directory,
                env={**environment(), **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = START_S) -> None:
        """Wait until it answers; raises as `start` does."""
        deadline = time.monotonic() + timeout_s
        while not self._is_healthy():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(
                    f"the MLflow server: got no answer; expected one in {timeout_s:g} s. Its log: {tail}"
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it and its workers; the database stays."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def suspend(self) -> None:
        """Freeze it: connections are accepted by the kernel, nothing is answered."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Put one request to the server."""
        return send(self.uri, method, path, body)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own_directory is not None:
            self._own_directory.cleanup()

    def _is_healthy(self) -> bool:
        try:
            return send(self.uri, "GET", "/health", timeout_s=2).status == 200
        except (OSError, http.client.HTTPException):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
