"""Programs of a test's own, run to whatever end they come to; and what a server must hold of them afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rltelemetry.testing import MlflowServer

EVENTS = 200

PREAMBLE = f"""
import os, sys, time, signal, threading
import structlog, rltelemetry
log = structlog.get_logger("script")
def emit(count={EVENTS}, start=0):
    for index in range(start, start + count):
        log.info("train", category="TRAINER", loss=float(index), timesteps=index)
def configure(exit_timeout_s=20.0, **fields):
    return rltelemetry.configure(
        console="json", system_metrics=False, traces=False, exit_timeout_s=exit_timeout_s, **fields
    )
"""


class Ended(NamedTuple):
    code: int
    output: str
    seconds: float


@contextmanager
def start_script(
    body: str,
    uri: str,
    *,
    file: Path | None = None,
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = (),
    is_binary: bool = False,
) -> Iterator["subprocess.Popen[Any]"]:
    """Start a script; it is killed if it still runs at the end of the block.

    Args:
        body: what follows the preamble.
        uri: the server.
        file: where the script is written, if its children must find it.
        prefix: a command that runs the script's.
        arguments: the script's own.
        is_binary: whether it writes bytes, on stdout; stderr is dropped then.
    """
    environ = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    script = PREAMBLE + textwrap.dedent(body)
    if file is not None:
        file.write_text(script)
    process = subprocess.Popen(
        [*prefix, sys.executable, *([str(file)] if file else ["-c", script]), *arguments],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if is_binary else subprocess.STDOUT, text=not is_binary, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def wait_for_line(process: "subprocess.Popen[Any]", text: str) -> str:
    """Read a script's output up to a line that holds `text`."""
    assert process.stdout is not None
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, f"the script ended early: {output}"
        output += line
    return output


def run_script(
    body: str,
    uri: str,
    *,
    file: Path | None = None,
    kill: signal.Signals | None = None,
    timeout_s: float = 60.0,
) -> Ended:
    """Run a script to its end; with `kill`, send that signal once it has printed `ready`."""
    with start_script(body, uri, file=file) as process:
        output = ""
        if kill is not None:
            output = wait_for_line(process, "ready")
            process.send_signal(kill)
        start = time.monotonic()
        output += process.communicate(timeout=timeout_s)[0]
        return Ended(process.returncode, output, time.monotonic() - start)


def steps_of(server: MlflowServer, run_id: str) -> list[int]:
    return sorted(point.step for point in server.points(run_id, "trainer/loss"))


def assert_all_arrived(server: MlflowServer, status: str, count: int = EVENTS) -> None:
    (run,) = server.runs()
    assert steps_of(server, run.run_id) == list(range(count))
    assert run.status == status
    assert run.end_time_ms is not None
