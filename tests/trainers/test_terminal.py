"""What a real run shows on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # processes that load torch

SHORT = [
    *("--no-mlflow", "--device", "cpu", "--training-core.total-timesteps", "640", "--training-core.horizon", "16"),
    *("--environment.num-envs", "4", "--evaluation.num-eval-episodes", "1", "--checkpointing.no-save"),
]
PROGRESS = "steps/s  left"
ERASE = "\x1b[2K"


def shown(folder: Path, *flags: str) -> str:
    """All that a run of `ppo` writes to its terminal."""
    ours, its = pty.openpty()
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder), "TERM": "xterm"}
    argv = [sys.executable, "-m", "trainers", "ppo", *SHORT, *flags]
    with subprocess.Popen(argv, stdin=its, stdout=its, stderr=its, env=environ, cwd=folder) as process:
        os.close(its)
        written = b""
        while chunk := read(ours):
            written += chunk
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


def read(terminal: int) -> bytes:
    """The next bytes; none once nobody holds the other end."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # EIO, Linux's way to say so
        return b""


def test_progress_line_stands_below_the_log_and_is_gone_at_the_end(tmp_path: Path) -> None:
    text = shown(tmp_path)
    *lines, last = text.split("\r\n")
    left_standing = [line.rpartition(ERASE)[2] for line in lines]
    assert "update 1/10" in text
    assert not any(PROGRESS in line for line in left_standing), "a log line takes its place, and never follows it"
    assert any("TRAINER" in line for line in left_standing)
    assert "training done" in left_standing[-1]
    assert last.rpartition(ERASE)[2] == ""


def test_quiet_run_shows_nothing(tmp_path: Path) -> None:
    assert shown(tmp_path, "--quiet") == ""
