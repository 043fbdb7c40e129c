"""The stream of metric points: how many go into a request, and which of them the server refuses.

Up to CATCH_UP points a request, and up to REPEAT of those that may have been stored already, since MLflow takes a
repeat 25 times slower than a first try. A time-out halves the request and lengthens the patience. What is refused is
taken apart until the refused points alone are left: they are counted and buried, but only while the server takes other
points. One that takes none is not to be trusted with a verdict: everything is held.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rltelemetry.sinks.mlflow.bisection import split
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.rows import PointBatch
from rltelemetry.sinks.mlflow.way import Way
from rltelemetry.types import MetricPoint

__all__ = ["CATCH_UP", "PointStream"]

CATCH_UP: Final = 1000
"""Most points in a request that MLflow takes; about 100 kB."""

REPEAT: Final = 250
"""Most points in a request that may have been stored already."""

MAX_BYTES: Final = 900_000
"""MLflow documents a limit of 1 MB; its own server does not keep it, others may."""

SAMPLES: Final = 8
"""Single points that are tried before a whole batch is believed to be bad."""

GATEWAY_STATUSES: Final = frozenset({502, 503, 504})
"""Said of the server, never of the data."""


class PointStream:
    """Sends points, oldest first.

    Args:
        way: what it works with.
        attempts: server errors in a row before the data is suspected.
        num_uncertain: how many points at the head may have been stored already.
    """

    def __init__(self, way: Way, attempts: int, num_uncertain: int = 0) -> None:
        self.interval_s = 0.0
        self.has_more = False
        self._spool, self._client, self._run, self._notices, self.breaker, self.patience = way
        self._attempts = attempts
        self._num_uncertain = num_uncertain
        self._limit = CATCH_UP
        self._server_errors = 0
        self._known_good: MetricPoint | None = None

    async def send(self) -> Outcome | None:
        """Send one request's worth; None if there is nothing to send, or no run yet."""
        if self._run.run_id is None or self._spool.points_kept == 0:
            return None
        batch = self._spool.points(min(self._limit, REPEAT) if self._num_uncertain else self._limit, MAX_BYTES)
        self.has_more = not batch.is_all
        if not batch.points:
            return None
        outcome = await self._offer(batch.points)
        if outcome.verdict is Verdict.POISON or self._is_suspect(outcome):
            outcome = await self._take_apart(batch, outcome)
        elif outcome.is_delivered:
            self._let_go(batch, [])
        if not outcome.is_delivered:
            self._learn(outcome, len(batch.points))
        return outcome

    async def _offer(self, points: Sequence[MetricPoint]) -> Outcome:
        run_id = self._run.run_id
        assert run_id is not None
        return await self._client.log_points(run_id, points, self.patience.left_s())

    def _is_suspect(self, outcome: Outcome) -> bool:
        """Whether the data may be what a server error comes from: it came again and again."""
        is_server_error = outcome.status >= 500 and outcome.status not in GATEWAY_STATUSES
        self._server_errors = self._server_errors + 1 if is_server_error else 0
        return self._server_errors >= self._attempts

    async def _take_apart(self, batch: PointBatch, refusal: Outcome) -> Outcome:
        """Find the points that are refused; the others are stored on the way."""
        if not await self._takes_any(batch.points):
            return replace(refusal, verdict=Verdict.HELD) if refusal.verdict is Verdict.POISON else refusal
        parts = await split(batch.points, refusal, self._offer)
        if parts.failure is not None:
            self._num_uncertain = max(self._num_uncertain, len(batch.points))
            return parts.failure
        self._let_go(batch, parts.refused)
        if parts.refused:
            point, reason = parts.refused[0]
            self._notices.warn(
                "poison", f"MLflow refuses {len(parts.refused)} points for good, {point.key!r} among them: {reason}"
            )
        return Outcome(Verdict.DELIVERED)

    async def _takes_any(self, points: Sequence[MetricPoint]) -> bool:
        """Whether the server takes points at all: one that it took before, which is harmless, or some of these."""
        samples = [self._known_good] if self._known_good else points[:: max(1, len(points) // SAMPLES)][:SAMPLES]
        for point in samples:
            if (await self._offer([point])).is_delivered:
                self._known_good = point
                return True
        return False

    def _let_go(self, batch: PointBatch, refused: Sequence[tuple[MetricPoint, str]]) -> None:
        self._spool.ack_points(batch, refused)
        self._server_errors = 0
        self._num_uncertain = max(0, self._num_uncertain - len(batch.points))
        self._limit = min(CATCH_UP, self._limit * 2)
        if not refused:
            self._known_good = batch.points[-1]
        if self._num_uncertain == 0:
            self.patience.reset()

    def _learn(self, outcome: Outcome, num_points: int) -> None:
        """Send less after a time-out; remember what may have arrived."""
        if outcome.is_uncertain:
            self._num_uncertain = max(self._num_uncertain, num_points)
        if outcome.is_timeout:
            self._limit = max(1, num_points // 2)
