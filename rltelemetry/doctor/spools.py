"""What waits on this disk: spools of runs that go on, and of runs that have ended."""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from rltelemetry.doctor.findings import Finding, ok, warning
from rltelemetry.sinks.mlflow import SpoolFile, SpoolReader, Waiting

__all__ = ["check_spools"]


class _Count(NamedTuple):
    spools: int = 0
    points: int = 0
    others: int = 0

    def plus(self, waiting: Waiting) -> "_Count":
        others = self.others + waiting.traces + waiting.calls
        return _Count(self.spools + 1, self.points + waiting.points, others)

    def __str__(self) -> str:
        return f"{self.points} points and {self.others} other items in {self.spools} {_plural('spool', self.spools)}"


def check_spools(directory: Path) -> Finding:
    """Count what waits, by whether its owner lives."""
    left, running = _Count(), _Count()
    unreadable: list[str] = []
    for file in SpoolFile.all_in(directory):
        try:
            with SpoolReader(file.path) as reader:
                waiting = reader.waiting()
        except sqlite3.Error:
            unreadable.append(file.path.name)
            continue
        if file.is_owned():
            running = running.plus(waiting)
        elif waiting:
            left = left.plus(waiting)
    aside = sorted(path.name for kind in ("damaged", "refused") for path in directory.glob(f"*.spool.{kind}-????"))
    return _judge(directory, left, running, unreadable, aside)


def _judge(directory: Path, left: _Count, running: _Count, unreadable: list[str], aside: list[str]) -> Finding:
    seen = [f"runs that have ended left {left}"] if left.spools else []
    seen += [f"runs that go on hold {running}"] if running.spools else []
    seen += [f"cannot be read: {', '.join(unreadable)}"] if unreadable else []
    seen += [f"put aside: {', '.join(aside)}"] if aside else []
    text = f"{'; '.join(seen) or 'nothing waits'} ({directory})"
    if left.spools:
        return warning("spools", text, "Send it: `rltelemetry sync`.")
    if unreadable or aside:
        return warning(
            "spools", text, "What is put aside was damaged, or refused by MLflow for good: look, and delete it."
        )
    return ok("spools", text)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
