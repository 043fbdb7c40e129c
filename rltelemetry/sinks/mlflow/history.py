"""How far a run has come, by its spools: the points that wait there, and the steps of those that have left."""

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rltelemetry.plan import RunPlan
from rltelemetry.sinks.mlflow import tables
from rltelemetry.sinks.mlflow.reader import SpoolReader
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.types import MetricPoint

__all__ = ["last_steps", "remember_steps", "spooled_steps"]

STEPS_KEY: Final = "last_steps"
"""Where a spool remembers the last step of each category, of the points that have left it."""


def last_steps(points: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the last step of each category; a point is its key, such as `trainer/entropy`, and its step."""
    by_key: dict[str, int] = {}
    for key, step in points:
        if step > by_key.get(key, step - 1):
            by_key[key] = step
    steps: dict[str, int] = {}
    for key, step in by_key.items():
        category = key.partition("/")[0]
        steps[category] = max(step, steps.get(category, step))
    return steps


def remember_steps(db: sqlite3.Connection, points: Iterable[MetricPoint]) -> None:
    """Remember the steps of points that leave; in the transaction that takes their rows away."""
    known = tables.facts(db).get(STEPS_KEY, {})
    steps = last_steps([*known.items(), *((point.key, point.step) for point in points)])
    tables.remember(db, STEPS_KEY, steps)


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
        plan = RunPlan.load(facts)
        if plan is not None and {plan.run_id, plan.client_uuid} & (wanted - {None}):
            waiting, _ = reader.points_after(0)
            return last_steps([*facts.get(STEPS_KEY, {}).items(), *((point.key, point.step) for point in waiting)])
    return {}
