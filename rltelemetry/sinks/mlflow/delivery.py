"""From the spool to the server: what is sent when, how often it is tried, and what becomes of what is refused.

One request at a time. Points leave when `flush_points` wait or `flush_interval_s` has passed; up to CATCH_UP of them in
a request when many wait, up to REPEAT after a time-out, since MLflow takes a repeat 25 times slower than a first try.
Failures of the RETRY kind are tried for ever, with full jitter and the server's Retry-After as a floor; what the server
refuses is taken apart until the refused points alone are left, which are counted and buried.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.spool import PointBatch, Row, Spool
from rltelemetry.types import MetricPoint

__all__ = ["Delivery", "RunIdentity"]

CATCH_UP: Final = 1000
"""Most points in a request that MLflow takes; about 100 kB."""

REPEAT: Final = 250
"""Most points in a request that may have been stored already."""

TIMEOUT_GROWTH: Final = 3.0
MAX_TIMEOUT_S: Final = 30.0
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
HELD_S: Final = 15.0
"""Pause before data that waits for a person is tried again."""

TICK_S: Final = 0.1


class RunIdentity(Protocol):
    """What delivery asks of the run."""

    @property
    def run_id(self) -> str | None:
        """The run's id; None until it is known."""

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None until it is known."""

    @property
    def artifact_root(self) -> str | None:
        """Where artifacts go, below the server's artifact route; None if it takes none."""

    @property
    def is_refused(self) -> bool:
        """Whether it is sure that there will be no run."""


class Delivery:
    """Sends what the spool holds, oldest first.

    Args:
        settings: batch sizes and durations.
        spool: what to send.
        client: the server.
        run: where it belongs.
        notices: where trouble is said.
        clock: the time source.
        jitter: spreads retries, so that a hundred runs do not come back at once.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        client: MlflowClient,
        run: RunIdentity,
        notices: Notices,
        clock: Clock,
        jitter: random.Random | None = None,
    ) -> None:
        self.points_sent = 0
        self._settings = settings
        self._spool = spool
        self._client = client
        self._run = run
        self._notices = notices
        self._clock = clock
        self._jitter = jitter or random.Random()
        self._is_sending: asyncio.Lock | None = None
        self._timeout_s = settings.request_timeout_s
        self._limit = CATCH_UP
        self._uncertain = 0
        self._failures = 0
        self._not_before = 0.0
        self._flushed_at = clock.monotonic()
        self._traces_refused = False

    async def run(self) -> None:
        """Send for ever; ends by being cancelled, at any point without harm."""
        while True:
            await self._clock.sleep(TICK_S)
            self._spool.maintain()
            if self._is_due():
                async with self._lock():
                    await self._send_all(deadline=float("inf"))

    async def drain(self, deadline: float) -> None:
        """Send until nothing is left, or `deadline` (monotonic seconds) has come, or the server does not take it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())), self._lock():
                await self._drain_now(deadline)

    async def _drain_now(self, deadline: float) -> None:
        self._not_before = min(self._not_before, self._clock.monotonic())
        while not self._run.run_id and not self._run.is_refused and self._clock.monotonic() < deadline:
            await self._clock.sleep(TICK_S)
        await self._send_all(deadline)

    def _lock(self) -> asyncio.Lock:
        """One request at a time; made on the loop that uses it, since a failed loop is replaced."""
        loop = asyncio.get_running_loop()
        if self._is_sending is None or getattr(self._is_sending, "owner", None) is not loop:
            self._is_sending = asyncio.Lock()
            self._is_sending.owner = loop  # type: ignore[attr-defined]
        return self._is_sending

    def _is_due(self) -> bool:
        now = self._clock.monotonic()
        if now < self._not_before:
            return False
        waits_long = now - self._flushed_at >= self._settings.flush_interval_s
        return waits_long or self._spool.points_kept >= self._settings.flush_points

    async def _send_all(self, deadline: float) -> None:
        """Send everything that can be sent: calls, then points, a piece of traces between two batches."""
        self._flushed_at = self._clock.monotonic()
        progress = True
        while progress:
            progress = False
            for send in (self._send_call, self._send_points, self._send_traces):
                now = self._clock.monotonic()
                if now >= deadline or now < self._not_before:
                    return
                self._remaining_s = deadline - now
                progress = await send() or progress

    def _patience_s(self) -> float:
        return max(0.05, min(self._timeout_s, self._remaining_s))

    async def _send_points(self) -> bool:
        run_id = self._run.run_id
        if run_id is None or self._spool.points_kept == 0:
            return False
        limit = min(self._limit, REPEAT) if self._uncertain > 0 else self._limit
        batch = self._spool.points(limit)
        if not batch.points:
            return False
        outcome = await self._client.log_points(run_id, batch.points, self._patience_s())
        if outcome.is_delivered:
            self._delivered(batch, [])
            return True
        if outcome.verdict is Verdict.RETRY and await self._is_to_blame(run_id, outcome):
            outcome = Outcome(Verdict.POISON, outcome.status, outcome.cause, answer=outcome.answer)
        if outcome.verdict is Verdict.POISON:
            return await self._take_apart(run_id, batch, outcome)
        self._uncertain = max(self._uncertain, len(batch.points)) if outcome.status == 0 else self._uncertain
        self._failed(outcome, len(batch.points))
        return False

    async def _is_to_blame(self, run_id: str, outcome: Outcome) -> bool:
        """Whether these points cause a repeated server error: the same route takes an empty batch meanwhile."""
        if (
            outcome.status < 500
            or outcome.status in {502, 503, 504}
            or self._failures < self._settings.request_attempts
        ):
            return False
        probe = await self._client.log_points(run_id, [], self._patience_s())
        return probe.is_delivered

    async def _take_apart(self, run_id: str, batch: PointBatch, refused: Outcome) -> bool:
        """Find the points that the server refuses, by halves; the others are stored on the way."""
        dead: list[tuple[MetricPoint, str]] = []
        pieces: list[Sequence[MetricPoint]] = [batch.points]
        reason = refused.cause
        while pieces:
            piece = pieces.pop()
            if piece is not batch.points:
                outcome = await self._client.log_points(run_id, piece, self._patience_s())
                if outcome.is_delivered:
                    continue
                is_poison = outcome.verdict is Verdict.POISON or outcome.status == refused.status
                if not is_poison:
                    self._failed(outcome, len(batch.points))
                    return False
                reason = outcome.cause
            if len(piece) == 1:
                dead.append((piece[0], reason))
            else:
                middle = len(piece) // 2
                pieces += [piece[middle:], piece[:middle]]
        if len(dead) == len(batch.points):
            probe = await self._client.log_points(run_id, [], self._patience_s())
            if not probe.is_delivered:
                self._failed(Outcome(Verdict.HELD, refused.status, refused.cause), len(dead))
                return False
        self._delivered(batch, dead)
        key = dead[0][0].key if dead else ""
        self._notices.warn("poison", f"MLflow refuses {len(dead)} points for good, {key!r} among them: {reason}")
        return True

    def _delivered(self, batch: PointBatch, dead: list[tuple[MetricPoint, str]]) -> None:
        self._spool.ack_points(batch, dead)
        self._spool.dropped["poison"] += len(dead)
        self.points_sent += len(batch.points) - len(dead)
        self._uncertain = max(0, self._uncertain - len(batch.points))
        self._recovered()
        self._limit = min(CATCH_UP, self._limit * 2)

    async def _send_traces(self) -> bool:
        row = None if self._traces_refused else self._spool.head("traces")
        if row is None or not self._settings.traces or (self._run.run_id is None and not self._run.is_refused):
            return False
        experiment_id = self._run.experiment_id or self._settings.experiment_id or "0"
        outcome = await self._client.send_traces(row.body, experiment_id, self._run.run_id, self._patience_s())
        if outcome.is_delivered:
            self._spool.ack(row)
            self._recovered()
            return True
        if outcome.status in {404, 405, 501}:
            self._traces_refused = True
            self._notices.once("traces", f"{outcome.cause}; traces are off, metrics go on. {_TRACES_REMEDY}")
            return False
        if outcome.verdict is Verdict.POISON:
            self._bury(row, outcome, "trace")
            return True
        self._failed(outcome, 0)
        return False

    async def _send_call(self) -> bool:
        run_id, row = self._run.run_id, self._spool.head("call")
        if run_id is None or row is None:
            return False
        name, arguments = json.loads(row.body)
        outcome = await self._perform(run_id, name, arguments)
        if outcome.is_delivered:
            self._spool.ack(row)
            self._recovered()
            return True
        if outcome.verdict is Verdict.POISON:
            self._bury(row, outcome, name)
            return True
        self._failed(outcome, 0)
        return False

    async def _perform(self, run_id: str, name: str, arguments: dict[str, Any]) -> Outcome:
        patience_s = self._patience_s()
        if name == "params":
            return await self._client.log_params(run_id, arguments, patience_s)
        if name == "tags":
            return await self._client.set_tags(run_id, arguments, patience_s)
        if name == "status":
            return await self._client.update_run(run_id, arguments["status"], arguments["end_time_ms"], patience_s)
        root = self._run.artifact_root
        if root is None:
            return Outcome(Verdict.POISON, cause="this server keeps no artifacts")
        target = f"{root}/{arguments['name']}"
        return await self._client.put_artifact(target, Path(arguments["path"]), max(patience_s, MAX_TIMEOUT_S))

    def _bury(self, row: Row, outcome: Outcome, what: str) -> None:
        self._spool.bury(row, outcome.cause)
        self._notices.warn(f"refused {what}", f"MLflow refuses a {what} for good: {outcome.cause}")

    def _failed(self, outcome: Outcome, num_points: int) -> None:
        """Decide when to try again, with how much and how patiently; say why once it is more than a hiccup."""
        self._failures += 1
        if outcome.is_timeout:
            self._timeout_s = min(MAX_TIMEOUT_S, self._timeout_s * TIMEOUT_GROWTH)
            self._limit = max(1, min(self._limit, num_points or self._limit) // 2)
        is_held = outcome.verdict is Verdict.HELD
        ceiling_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
        pause_s = HELD_S if is_held else self._jitter.uniform(0.1, max(0.1, ceiling_s))
        self._not_before = self._clock.monotonic() + max(pause_s, outcome.retry_after_s)
        if is_held or self._failures >= self._settings.request_attempts:
            self._notices.warn(
                f"delivery {outcome.status} {outcome.remedy}",
                f"MLflow at {self._client.base_uri} does not take data: {outcome} "
                f"{self._spool.points_kept} points are kept and will be sent later.",
            )

    def _recovered(self) -> None:
        if self._failures >= self._settings.request_attempts:
            self._notices.info(f"MLflow takes data again; {self._spool.points_kept} points to catch up")
        self._failures = 0
        self._not_before = 0.0
        self._timeout_s = self._settings.request_timeout_s if self._uncertain == 0 else self._timeout_s


_TRACES_REMEDY: Final = "Traces need MLflow 3.6 or newer, a database backend and its default server (uvicorn)."
