"""Programs of a test's own, run to whatever end they come to; and what a server must hold of them afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

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


def run_script(body: str, uri: str, *, kill: signal.Signals | None = None, timeout_s: float = 30.0) -> Ended:
    """Run a script to its end; with `kill`, send that signal once it has printed `ready`."""
    environ = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(body)],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        output = ""
        if kill is not None:
            while "ready" not in output:
                line = process.stdout.readline()
                assert line, f"the script ended early: {output}"
                output += line
            process.send_signal(kill)
        start = time.monotonic()
        output += process.communicate(timeout=timeout_s)[0]
        return Ended(process.returncode, output, time.monotonic() - start)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def steps_of(server: MlflowServer, run_id: str) -> list[int]:
    return sorted(point.step for point in server.points(run_id, "trainer/loss"))


def assert_all_arrived(server: MlflowServer, status: str, count: int = EVENTS) -> None:
    (run,) = server.runs()
    assert steps_of(server, run.run_id) == list(range(count))
    assert run.status == status
    assert run.end_time_ms is not None
