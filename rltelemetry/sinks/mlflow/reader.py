"""A spool as somebody sees it who does not own it: read only, beside the process that writes it.

Rows leave a spool when the server has confirmed them; whoever looks several times a second sees each point pass.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

from rltelemetry.types import MetricPoint

__all__ = ["SpoolReader", "Waiting"]

BUSY_S: Final = 1.0


class Waiting(NamedTuple):
    """What a spool holds.

    Attributes:
        points: metric points.
        traces: spans.
        calls: parameters, tags, a status, artifacts.
        dead: entries that the server has refused for good.
    """

    points: int = 0
    traces: int = 0
    calls: int = 0
    dead: int = 0

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
            self.last_id()
        except BaseException:
            self._db.close()
            raise

    def facts(self) -> Mapping[str, Any]:
        """Return what the owner has noted about its run."""
        return {key: json.loads(value) for key, value in self._rows("SELECT key, value FROM meta")}

    def waiting(self) -> Waiting:
        """Count what waits."""
        counts = dict(self._rows("SELECT kind, total(count - taken) FROM rows GROUP BY kind"))
        ((dead,),) = self._rows("SELECT count(*) FROM dead")
        calls = counts.get("call", 0) + counts.get("artifact", 0)
        return Waiting(int(counts.get("points", 0)), int(counts.get("traces", 0)), int(calls), dead)

    def last_id(self) -> int:
        """Return the id of the youngest row that has ever been."""
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'rows'")
        return int(rows[0][0]) if rows else 0

    def points_after(self, row_id: int) -> tuple[list[MetricPoint], int]:
        """Return the points of the rows behind `row_id`, sent or not, and the id of the last of these rows."""
        query = "SELECT id, body FROM rows WHERE kind = 'points' AND id > ? ORDER BY id"
        rows = self._rows(query, row_id)
        points = [MetricPoint(*point) for _, body in rows for point in json.loads(body)]
        return points, rows[-1][0] if rows else row_id

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _rows(self, query: str, *values: object) -> list[Any]:
        with closing(self._db.execute(query, values)) as cursor:
            return cursor.fetchall()
