"""Can this machine render a task? Asked in a process of its own: without OpenGL, MuJoCo ends the process that asks."""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from trainers.errors import MissingError

__all__ = ["RENDERING_OPTIONS", "require_rendering"]

RENDERING_OPTIONS: Final = frozenset(
    {"from_pixels", "render_mode", "render_env_id", "render_width", "render_height", "render_camera_id"}
)
"""Keys of envpool.make that no task's configuration lists."""

PROBE: Final = """
import json, sys, warnings
warnings.simplefilter("ignore")
import envpool
task, options = json.loads(sys.argv[1])
pool = envpool.make_gymnasium(task, num_envs=1, **options)
pool.reset()
if options.get("render_mode"):
    pool.render()
print("rendered")
"""
TIMEOUT_S: Final = 120.0
"""Importing a family of tasks takes up to 7 s, and a busy machine is several times slower."""


def require_rendering(task: str, options: Mapping[str, Any]) -> None:
    """Make sure that a task can be rendered with these options, if they ask for it.

    Raises:
        MissingError: it cannot; says why.
    """
    if not (options.get("from_pixels") or options.get("render_mode")):
        return
    reason = _failure(json.dumps([task, dict(options)]))
    if reason is not None:
        raise MissingError(
            f"environment.task: got {task!r} to be rendered; expected OpenGL to work here. It says: {reason}. "
            "Install an OpenGL library (Debian: libegl1 or libosmesa6), or do not render."
        )


@functools.lru_cache
def _failure(request: str) -> str | None:
    """Why rendering fails, or None if it does not."""
    command = [sys.executable, "-c", PROBE, request]
    try:
        with tempfile.TemporaryDirectory() as folder:  # MuJoCo leaves a log where it stands
            probe = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S:.0f} s"
    if "rendered" in probe.stdout:
        return None
    said = [line for line in (probe.stderr + probe.stdout).splitlines() if line.strip()]
    return said[-1].strip()[:200] if said else f"exit status {probe.returncode}"
