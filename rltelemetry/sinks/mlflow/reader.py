"""A spool as somebody sees it who does not own it: read only, beside the process that writes it.

Rows leave a spool when the server has confirmed them; whoever looks several times a second sees each point pass.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

from rltelemetry.sinks.mlflow import tables
from rltelemetry.types import MetricPoint

__all__ = ["SpoolReader", "Waiting"]

BUSY_S: Final = 1.0


class Waiting(NamedTuple):
    """What a spool holds.

    Attributes:
        points: metric points.
        traces: spans.
        calls: parameters, tags, a status, artifacts.
    """

    points: int = 0
    traces: int = 0
    calls: int = 0

    def __bool__(self) -> bool:
        return bool(self.points or self.traces or self.calls)


class SpoolReader:
    """A read-only connection to a spool's file.

    Args:
        path: the file.

    Raises:
        sqlite3.Error: it is not there, or no spool.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_S)
        try:
            tables.measure(self._db)
        except BaseException:
            self._db.close()
            raise

    def facts(self) -> Mapping[str, Any]:
        """Return what the owner has noted about its run."""
        return tables.facts(self._db)

    def waiting(self) -> Waiting:
        """Count what waits."""
        units = {kind: size.units for kind, size in tables.measure(self._db).items()}
        calls = units.get("call", 0) + units.get("artifact", 0)
        return Waiting(units.get("points", 0), units.get("traces", 0), calls)

    def points_after(self, row_id: int) -> tuple[list[MetricPoint], int]:
        """Return the points of the rows behind `row_id`, sent or not, and the id of the last of these rows."""
        return tables.points_after(self._db, row_id)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
