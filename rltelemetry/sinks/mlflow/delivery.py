"""From the spool to the server: which streams there are, and which of them share a lane.

Calls, points and traces take turns, one request at a time: a second connection buys nothing from MLflow. Artifacts may
be large and have a lane of their own, so that a checkpoint on its way through a tunnel does not stop the curves.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.schema import DEFAULT_EXPERIMENT
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.artifacts import ArtifactStream
from rltelemetry.sinks.mlflow.backoff import Breaker, Patience
from rltelemetry.sinks.mlflow.calls import CallStream
from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.destination import Destination
from rltelemetry.sinks.mlflow.lane import Lane, Stream
from rltelemetry.sinks.mlflow.outcome import Outcome
from rltelemetry.sinks.mlflow.points import CATCH_UP, PointStream
from rltelemetry.sinks.mlflow.rows import Kind
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.sinks.mlflow.traces import TraceStream
from rltelemetry.sinks.mlflow.way import Way

__all__ = ["Delivery"]


class Delivery:
    """Sends what a spool holds.

    Args:
        settings: batch sizes and durations.
        spool: what to send.
        client: the server.
        run: where it belongs.
        notices: where trouble is said.
        clock: the time source.
        jitter: spreads retries.
        is_inherited: whether another process has filled the spool, and may have sent the head of it.
        give_way: awaited before each request, by somebody who is not in a hurry.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        client: MlflowClient,
        run: Destination,
        notices: Notices,
        clock: Clock,
        *,
        jitter: random.Random | None = None,
        is_inherited: bool = False,
        give_way: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        jitter = jitter or random.Random()

        def breaker() -> Breaker:
            return Breaker(settings.request_attempts, clock, jitter)

        def way() -> Way:
            return Way(spool, client, run, notices, breaker(), Patience(settings.request_timeout_s, clock))

        def lane(streams: Mapping[Kind, Stream]) -> Lane:
            return Lane(streams, breaker(), spool, settings, client.base_uri, notices, clock, give_way)

        num_uncertain = CATCH_UP if is_inherited else 0
        self._main = lane(
            {
                "call": CallStream(way()),
                "points": PointStream(way(), settings.request_attempts, num_uncertain),
                "traces": TraceStream(way(), settings.experiment_id or DEFAULT_EXPERIMENT),
            }
        )
        self._uploads = lane({"artifact": ArtifactStream(way())})

    @property
    def is_sending(self) -> bool:
        """Whether points or anything of their lane are on their way."""
        return self._main.is_sending

    @property
    def last_failure(self) -> Outcome | None:
        """What kept data from being sent the last time."""
        return self._main.last_failure or self._uploads.last_failure

    async def run(self) -> None:
        """Send for ever; ends by being cancelled, at any point without harm."""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._main.run())
            lanes.create_task(self._uploads.run())

    async def drain(self, deadline: float, *, is_patient: bool) -> bool:
        """Send until nothing is left; see `Lane.drain`."""
        emptied = await asyncio.gather(
            self._main.drain(deadline, is_patient=is_patient), self._uploads.drain(deadline, is_patient=is_patient)
        )
        return all(emptied)

    def wake(self) -> None:
        """Look at the spool now, if that makes sense: something may have come."""
        self._main.wake()
        self._uploads.wake()

    def forget_loop(self) -> None:
        """Start anew: the loop is gone, and with it whoever was sending."""
        self._main.forget_loop()
        self._uploads.forget_loop()
