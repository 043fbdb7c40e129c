"""What the doctor says: one finding a check, in the order of the way that data takes."""

from enum import Enum
from typing import Final, NamedTuple

from rltelemetry.sinks.mlflow import Outcome

__all__ = ["CHECKS", "Finding", "Level", "failed", "ok", "skipped", "warning"]

CHECKS: Final[dict[str, str]] = {
    "settings": "what the environment says can be used",
    "name": "the host's name has an address",
    "connection": "something listens there",
    "mlflow": "it is an MLflow server, at this path",
    "host": "it accepts the name by which it is called",
    "version": "it is new enough for traces",
    "store": "it keeps its data in a database",
    "credentials": "it lets us in",
    "experiment": "the experiment is there",
    "run": "the run that is to be carried on is there",
    "traces": "it takes traces",
    "metric probe": "a point is stored, read back and deleted",
    "trace probe": "a trace is stored, read back and deleted",
    "artifacts": "it keeps files",
    "clock": "its clock and ours agree",
    "round trip": "it answers soon enough",
    "spools": "nothing that ended runs have left waits on this disk",
}
"""Each check, and what it means that it passes."""


class Level(Enum):
    """How a check ended: only FAILED makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """One check's end.

    Attributes:
        check: a key of CHECKS.
        level: how it ended.
        seen: what was seen.
        remedy: what a person can do; empty where there is nothing to do.
    """

    check: str
    level: Level
    seen: str
    remedy: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether data would not arrive, or not all of it."""
        return self.level is Level.FAILED


def ok(check: str, seen: str) -> Finding:
    """Report a check that passed."""
    return Finding(check, Level.OK, seen)


def warning(check: str, seen: str, remedy: str = "") -> Finding:
    """Report something that costs no data, but should be known."""
    return Finding(check, Level.WARNING, seen, remedy)


def failed(check: str, seen: str | Outcome, remedy: str = "") -> Finding:
    """Report a check that failed; an outcome brings its own remedy."""
    if isinstance(seen, Outcome):
        return Finding(check, Level.FAILED, seen.cause, remedy or seen.remedy)
    return Finding(check, Level.FAILED, seen, remedy)


def skipped(check: str, why: str) -> Finding:
    """Report a check that was not made."""
    return Finding(check, Level.SKIPPED, why)
