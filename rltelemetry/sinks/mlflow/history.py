"""How far a run had come when its process died, by the spools that were left behind: read, never changed."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rltelemetry.sinks.mlflow.storage import SpoolFile

__all__ = ["STEPS_KEY", "last_steps", "spooled_steps"]

STEPS_KEY: Final = "last_steps"
"""Where a spool remembers the last step of each category, also of points that it has sent."""


def last_steps(points: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the last step of each category; a point is its key, such as `trainer/entropy`, and its step."""
    steps: dict[str, int] = {}
    for key, step in points:
        category = key.partition("/")[0]
        steps[category] = max(step, steps.get(category, step))
    return steps


def spooled_steps(directory: Path, run_id: str | None, client_uuid: str | None) -> dict[str, int]:
    """Return the last step of each category that this run's spools have taken in.

    Args:
        directory: where the spools lie.
        run_id: the run; None if it was not known yet.
        client_uuid: the run by its client's own name.
    """
    found = (_steps_of(file.path, run_id, client_uuid) for file in SpoolFile.all_in(directory))
    return last_steps(item for steps in found for item in steps.items())


def _steps_of(path: Path, run_id: str | None, client_uuid: str | None) -> Mapping[str, int]:
    """A spool's steps, if it is this run's; a spool that cannot be read has none."""
    with contextlib.suppress(sqlite3.Error, ValueError, AttributeError), contextlib.closing(_open(path)) as db:
        meta = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
        plan = meta.get("plan") or {}
        names = {meta.get("run_id"), plan.get("run_id"), plan.get("client_uuid")} - {None}
        if names & {run_id, client_uuid}:
            rows = db.execute("SELECT body FROM rows WHERE kind = 'points'")
            waiting = [(point[0], point[2]) for (body,) in rows for point in json.loads(body)]
            return last_steps([*meta.get(STEPS_KEY, {}).items(), *waiting])
    return {}


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
