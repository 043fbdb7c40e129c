"""The loop of `tail`: read the sources, draw, wait; until the run is over or the user has seen enough."""

import asyncio
import fnmatch
from collections.abc import Callable
from typing import Final

from rltelemetry.settings import Resolved
from rltelemetry.sinks.mlflow import MlflowClient
from rltelemetry.tail.board import Board
from rltelemetry.tail.sources import ServerSource, SpoolSource
from rltelemetry.tail.target import Target

__all__ = ["Watch"]

SPOOL_S: Final = 0.25
"""Points wait in the spool for up to a second before they are sent."""

SERVER_S: Final = 2.0
"""MLflow answers a question about a run in some 15 ms; a viewer should not be what keeps it busy."""


class Watch:
    """Follows one run.

    Args:
        target: where it is.
        resolved: credentials and time-outs.
        show: draws a board.
        keys: only metrics that match one of these patterns; all if there are none.
    """

    def __init__(
        self, target: Target, resolved: Resolved, show: Callable[[Board], None], keys: tuple[str, ...] = ()
    ) -> None:
        self._target = target
        self._resolved = resolved
        self._show = show
        self._keys = keys
        self._board = Board(target.name)
        self._spool = SpoolSource(target.spool) if target.spool else None
        self._server: ServerSource | None = None

    async def once(self) -> None:
        """Read everything and draw once."""
        if self._server is not None:
            self._server.forget()
        self._read_spool()
        await self._read_server()
        self._draw()

    async def follow(self) -> None:
        """Draw until the run is over; a server that does not answer keeps nobody from seeing what is on the disk."""
        polling = asyncio.create_task(self._poll_server())
        try:
            while not self._board.is_over:
                self._read_spool()
                self._draw()
                await asyncio.sleep(SPOOL_S)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        await self.once()

    async def close(self) -> None:
        """Give the connection back."""
        if self._server is not None:
            await self._server.close()

    async def _poll_server(self) -> None:
        while True:
            await self._read_server()
            await asyncio.sleep(SERVER_S)

    def _read_spool(self) -> None:
        if self._spool is not None:
            self._spool.read(self._board)

    async def _read_server(self) -> None:
        plan = self._spool.plan if self._spool else None
        uri = self._target.tracking_uri or (plan.tracking_uri if plan else None)
        if self._server is None and uri is not None:
            settings = self._resolved.aimed_at(uri)
            self._server = ServerSource(MlflowClient(settings), settings.request_timeout_s)
        if self._server is not None:
            self._server.run_id = self._target.run_id or (self._spool.run_id if self._spool else None)
            await self._server.read(self._board)

    def _draw(self) -> None:
        if not self._keys:
            self._show(self._board)
            return
        wanted = {
            key: series
            for key, series in self._board.series.items()
            if any(fnmatch.fnmatch(key, pattern) for pattern in self._keys)
        }
        self._show(Board(**{**vars(self._board), "series": wanted}))
