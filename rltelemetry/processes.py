"""Processes that outlive the one that started them: start one, know it again, end it.

A pid alone may be somebody else's by now; with the time at which its process started it names one process for good.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["end_group", "spawn_detached", "start_mark"]

POLL_S: Final = 0.05
LAUNCH_S: Final = 10.0
PROC: Final = Path("/proc")

LAUNCHER: Final = """
import os, subprocess, sys
child = subprocess.Popen(
    sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
)
print(child.pid, flush=True)
os._exit(0)
"""
"""A process in between: its child belongs to the system, which reaps it, and not to us, who may end first."""


def spawn_detached(command: Sequence[str], directory: Path, environ: Mapping[str, str], output: Path) -> int:
    """Start a program in a session of its own, with no input, and return its pid, which is also its group's.

    Args:
        command: the program and its arguments.
        directory: where it runs.
        environ: its environment.
        output: what it prints is appended here.

    Raises:
        OSError: it cannot be started.
    """
    with output.open("ab") as log:
        launched = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *command],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=LAUNCH_S,
            check=False,
        )
    if launched.returncode != 0:
        raise OSError(f"{command[0]} cannot be started; {output} says why")
    return int(launched.stdout)


def start_mark(pid: int) -> str:
    """Return what tells a process from a later one with its pid; empty if it does not run (any more)."""
    if not (PROC / "self").exists():
        return _start_mark_by_ps(pid)
    fields = _stat(pid)
    return "" if not fields or fields[0] == "Z" else fields[19]


def end_group(pid: int, mark: str, timeout_s: float) -> bool:
    """End a process and its group, first asking it to; False if there is no such process.

    Args:
        pid: the leader of the group.
        mark: its `start_mark`.
        timeout_s: how long the group may take before it is killed.
    """
    if pid <= 1 or not mark or start_mark(pid) != mark:
        return False
    os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while _has_members(pid):
        if time.monotonic() > deadline:
            # The group has existed all the time, so its number is still that of ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            break
        time.sleep(POLL_S)
    return True


def _has_members(group: int) -> bool:
    """Whether a process of the group runs; a zombie does not."""
    if (PROC / "self").exists():
        stats = (_stat(int(path.name)) for path in PROC.iterdir() if path.name.isdecimal())
        return any(fields[2] == str(group) and fields[0] != "Z" for fields in stats if fields)
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat behind the program's name, which may contain anything; empty if there is none."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_mark_by_ps(pid: int) -> str:
    asked = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return "" if len(asked) < 2 or asked[0].startswith("Z") else asked[1].strip()
