"""Streams that take turns on one connection: when something is sent, and what a failure means for whom.

Data leaves every `flush_interval_s`, and before that when `flush_points` points wait and none has left for a second. A
failure that would have hit any request (no connection, overload) opens the breaker of the lane, any other one that of
its stream only, so that refused traces do not hold up metrics. Everything is tried for ever; the spool waits.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Final, Protocol

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.redact import clean_text
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.alarm import Alarm
from rltelemetry.sinks.mlflow.backoff import Breaker, Patience
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.rows import Kind
from rltelemetry.sinks.mlflow.spool import Spool

__all__ = ["FOREVER", "Lane", "Stream"]

FOREVER: Final = float("inf")
SHORTEST_PAUSE_S: Final = 0.1

BATCH_GAP_S: Final = 1.0
"""Least time between two batches that leave for their size: a request costs 2 ms of CPU, whatever it holds, and a loop
that makes 50 points in each drain would pay that ten times a second."""


class Stream(Protocol):
    """One kind of data on its way, oldest first.

    Attributes:
        breaker: when it may be tried.
        patience: how long a request may take.
        interval_s: how long it may rest after a turn, unless somebody waits for it.
        has_more: whether its last request has left something behind that waited with it.
    """

    breaker: Breaker
    patience: Patience
    interval_s: float
    has_more: bool

    async def send(self) -> Outcome | None:
        """Send one request's worth; None if there is nothing that can be sent now."""


class Lane:
    """Sends what the spool holds for some streams.

    Args:
        streams: they take turns, in this order.
        server: the breaker of everything that the lane sends.
        spool: what is sent.
        settings: how much and how often.
        uri: the server, for messages.
        notices: where trouble is said.
        clock: the time source.
        give_way: awaited before each request.

    Attributes:
        is_sending: whether it is at work.
        last_failure: what kept data from being sent the last time.
    """

    def __init__(
        self,
        streams: Mapping[Kind, Stream],
        server: Breaker,
        spool: Spool,
        settings: Settings,
        uri: str,
        notices: Notices,
        clock: Clock,
        give_way: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.is_sending = False
        self.last_failure: Outcome | None = None
        self._streams = streams
        self._server = server
        self._spool = spool
        self._settings = settings
        self._uri = uri
        self._notices = notices
        self._clock = clock
        self._give_way = give_way
        self._flushed_at = clock.monotonic()
        self._batch_at = self._wakes_at = float("-inf")
        self._rests_until: dict[Kind, float] = {}
        self.forget_loop()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        waiting = self._spool.waiting()
        return not any(waiting.get(kind) for kind in self._streams)

    async def run(self) -> None:
        """Send for ever; ends by being cancelled, at any point without harm."""
        while True:
            self._wakes_at = self._due_at()
            await self._alarm.sleep(max(0.0, self._wakes_at - self._clock.monotonic()))
            if self._clock.monotonic() >= self._due_at():
                async with self._turn:
                    await self._send_some()

    async def drain(self, deadline: float, *, is_patient: bool) -> bool:
        """Send until nothing is left; says whether that was reached before `deadline` (monotonic seconds).

        Args:
            deadline: when to give up.
            is_patient: whether to go on trying a server that is down; else it is left once it counts as down.
        """
        for stream in self._streams.values():
            stream.patience.deadline = deadline
        try:
            left_s = max(0.0, deadline - self._clock.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s), self._turn:
                    await self._send_until(deadline, is_patient=is_patient)
        finally:
            for stream in self._streams.values():
                stream.patience.deadline = FOREVER
        return self.is_empty

    def wake(self) -> None:
        """Look at the spool now, if that makes sense: something may have come."""
        if self._due_at() < self._wakes_at:
            self._alarm.ring()

    def forget_loop(self) -> None:
        """Start anew: the loop is gone, and with it whoever was sending."""
        self._alarm = Alarm(self._clock)
        self._turn = asyncio.Lock()
        self.is_sending = False

    async def _send_until(self, deadline: float, *, is_patient: bool) -> None:
        for breaker in self._breakers():
            breaker.forgive()
        while True:
            await self._send_all(deadline)
            if self.is_empty or not (self._is_hiccup() or (is_patient and not self._is_held())):
                return
            pause_s = self._pause_s()
            if self._clock.monotonic() + pause_s >= deadline:
                return
            await self._clock.sleep(pause_s)

    async def _send_some(self) -> None:
        """Send what is due of the lane's own accord; what comes meanwhile waits for the next time."""
        with self._at_work():
            streams: Collection[Stream] = self._rested()
            while streams:
                streams = [stream for stream in await self._send_in_turn(streams, FOREVER) if stream.has_more]

    async def _send_all(self, deadline: float) -> None:
        """Send everything that can be sent now."""
        with self._at_work():
            while await self._send_in_turn(self._streams.values(), deadline):
                pass

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._flushed_at = self._clock.monotonic()
        if self._spool.points_kept:
            self._batch_at = self._flushed_at
        self.is_sending = True
        try:
            yield
        finally:
            self.is_sending = False

    async def _send_in_turn(self, streams: Collection[Stream], deadline: float) -> list[Stream]:
        """Let each stream send once; returns those of which something left, none if it makes no sense to go on."""
        gone = []
        for stream in streams:
            if self._give_way is not None:
                await self._give_way()
            if self._clock.monotonic() >= deadline or not self._server.is_due():
                return []
            if stream.breaker.is_due() and await self._send(stream):
                gone.append(stream)
        return gone

    async def _send(self, stream: Stream) -> bool:
        """Let a stream send once; says whether anything left."""
        outcome = await _attempt(stream)
        if outcome is None:
            return False
        if not outcome.is_delivered:
            self._failed(stream, outcome)
            return False
        if self._server.is_open or stream.breaker.is_open:
            self._notices.info(f"MLflow takes data again; {self._spool.points_kept} points to catch up")
        self._server.succeed()
        stream.breaker.succeed()
        return True

    def _failed(self, stream: Stream, outcome: Outcome) -> None:
        """Decide when to try again; say why once it is more than a hiccup."""
        self.last_failure = outcome
        if outcome.is_timeout:
            stream.patience.grow()
        breaker = self._server if outcome.is_server_wide else stream.breaker
        breaker.fail(outcome)
        if breaker.is_open or outcome.verdict is Verdict.HELD:
            self._notices.warn(
                f"delivery {outcome.status} {outcome.remedy}",
                f"MLflow at {self._uri} does not take data: {outcome} "
                f"{self._spool.points_kept} points are kept and will be sent later.",
            )

    def _rested(self) -> list[Stream]:
        """The streams whose turn it is; each of them rests again from now on."""
        now = self._clock.monotonic()
        kinds = [kind for kind in self._streams if now >= self._rests_until.get(kind, now)]
        self._rests_until |= {kind: now + self._streams[kind].interval_s for kind in kinds}
        return [self._streams[kind] for kind in kinds]

    def _has_batch(self) -> bool:
        return self._spool.points_kept >= self._settings.flush_points

    def _due_at(self) -> float:
        if all(self._spool.is_bare(kind) for kind in self._streams):
            return FOREVER
        due_at = self._flushed_at + self._settings.flush_interval_s
        if self._has_batch():
            due_at = min(due_at, self._batch_at + BATCH_GAP_S)
        return max(due_at, self._server.next_try_at)

    def _pause_s(self) -> float:
        """How long until something that has failed may be tried again."""
        failed = [breaker.next_try_at for breaker in self._breakers() if breaker.failures]
        next_at = self._server.next_try_at if self._server.failures else min(failed, default=0.0)
        return max(SHORTEST_PAUSE_S, next_at - self._clock.monotonic())

    def _is_hiccup(self) -> bool:
        """Whether something has failed that will pass, and not so often yet that it counts as down."""
        failed = [breaker for breaker in self._breakers() if breaker.failures and not breaker.is_held]
        return bool(failed) and not any(breaker.is_open for breaker in failed)

    def _is_held(self) -> bool:
        """Whether all that has failed waits for a person."""
        failed = [breaker for breaker in self._breakers() if breaker.failures]
        return bool(failed) and all(breaker.is_held for breaker in failed)

    def _breakers(self) -> list[Breaker]:
        return [self._server, *(stream.breaker for stream in self._streams.values())]


async def _attempt(stream: Stream) -> Outcome | None:
    """Let a stream send once; what it raises is its own trouble, and holds up no other stream."""
    try:
        return await stream.send()
    except Exception as error:
        cause = f"this program failed at it ({type(error).__name__}: {clean_text(str(error))})"
        return Outcome(Verdict.HELD, cause=cause, remedy="Report this, please.", is_own_fault=True)
