"""Where a board's points come from: the spool beside its writer, and MLflow."""

import sqlite3
from typing import Final

from rltelemetry.plan import RunPlan
from rltelemetry.sinks.mlflow import (
    MlflowClient,
    RunFacts,
    SpoolFile,
    SpoolReader,
    Waiting,
    read_points,
    read_run,
    run_page,
)
from rltelemetry.tail.board import Board

__all__ = ["ServerSource", "SpoolSource"]

TREND_POINTS: Final = 200
"""Points of a curve that MLflow is asked for at the start."""


class SpoolSource:
    """Reads a spool again and again: most points are seen while they wait there to be sent, for up to a second.

    Args:
        file: the spool.

    Attributes:
        plan: which run on which server, once its writer has noted it.
        run_id: the run's id, once its writer knows it: it may be made long after training has begun.
    """

    def __init__(self, file: SpoolFile) -> None:
        self.plan: RunPlan | None = None
        self.run_id: str | None = None
        self._file = file
        self._seen_id = 0

    def read(self, board: Board) -> None:
        """Bring a board up to date; a spool that is gone was sent to its end."""
        try:
            with SpoolReader(self._file.path) as reader:
                points, self._seen_id = reader.points_after(self._seen_id)
                waiting, facts = reader.waiting(), reader.facts()
        except sqlite3.Error:  # not made yet, busy just now, or gone
            board.owner = self._file.is_owned()
            board.waiting = board.waiting if board.owner else Waiting()
            return
        board.add(points)
        board.waiting, board.owner = waiting, self._file.is_owned()
        self.plan = RunPlan.load(facts)
        self.run_id = self.plan.run_id if self.plan else None
        board.title = (self.plan.run_name if self.plan else None) or self.run_id or board.title


class ServerSource:
    """Asks MLflow for a run: its curves at first, then the latest point of each key.

    Args:
        client: the way to the server.
        timeout_s: for each request.

    Attributes:
        run_id: the run; None as long as it is not known there.
    """

    def __init__(self, client: MlflowClient, timeout_s: float) -> None:
        self.run_id: str | None = None
        self._client = client
        self._timeout_s = timeout_s
        self._known: set[str] = set()

    async def read(self, board: Board) -> None:
        """Bring a board up to date, or note why that is not possible."""
        if self.run_id is None:
            outcome = await self._client.server_info(self._timeout_s)
        else:
            outcome = await self._client.get_run(self.run_id, self._timeout_s)
        board.problem = "" if outcome.is_delivered else str(outcome)
        if run := read_run(outcome.answer):
            await self._take(run, board)

    async def _take(self, run: RunFacts, board: Board) -> None:
        board.title = run.name or board.title
        board.status = run.status
        board.url = run_page(self._client.base_uri, run.experiment_id, run.run_id)
        board.add(run.latest)
        for key in [point.key for point in run.latest if point.key not in self._known]:
            trend = await self._client.get_trend(run.run_id, key, TREND_POINTS, self._timeout_s)
            if trend.is_delivered:
                self._known.add(key)
                board.add(read_points(trend.answer))

    def forget(self) -> None:
        """Have whole curves read again: what passed between two looks is in them."""
        self._known.clear()

    async def close(self) -> None:
        """Give the connection back."""
        await self._client.close()
