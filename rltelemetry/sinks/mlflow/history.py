"""How far a run had come when its process died, by the spools that were left behind: read, never changed."""

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rltelemetry.sinks.mlflow.reader import SpoolReader
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
    found = (_steps_of(file.path, {run_id, client_uuid}) for file in SpoolFile.all_in(directory))
    return last_steps(item for steps in found for item in steps.items())


def _steps_of(path: Path, wanted: set[str | None]) -> Mapping[str, int]:
    """A spool's steps, if it is the wanted run's; a spool that cannot be read has none."""
    with contextlib.suppress(sqlite3.Error, AttributeError), SpoolReader(path) as reader:
        facts = reader.facts()
        plan = facts.get("plan") or {}
        names = {facts.get("run_id"), plan.get("run_id"), plan.get("client_uuid")} - {None}
        if names & wanted:
            waiting, _ = reader.points_after(0)
            return last_steps([*facts.get(STEPS_KEY, {}).items(), *((point.key, point.step) for point in waiting)])
    return {}
