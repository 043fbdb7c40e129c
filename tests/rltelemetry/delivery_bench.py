"""Delivery with its surroundings in the hand: a fake server without a network, a clock that stands still, a spool."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.delivery import Delivery
from rltelemetry.sinks.mlflow.ledger import Ledger
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.sinks.mlflow.storage import SpoolFile
from rltelemetry.testing import FakeClock, FakeMlflow, Request
from rltelemetry.types import MetricPoint

Fault = Callable[[Request], httpx.Response | Exception | None]
"""Looks at a request: answers it, breaks it, or lets it through."""

LOG_BATCH = "/runs/log-batch"


def points(count: int, start: int = 0, key: str = "trainer/loss") -> list[MetricPoint]:
    return [MetricPoint(key, index / 2, index, 1_700_000_000_000 + index) for index in range(start, start + count)]


def status(code: int, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body or {"error_code": "X"}).encode()
    return httpx.Response(
        code, headers={key.replace("_", "-"): value for key, value in headers.items()}, content=content
    )


@dataclass
class Destination:
    """A run that is known, or not."""

    run_id: str | None = None
    experiment_id: str | None = "0"
    artifact_root: str | None = None
    is_refused: bool = False


class Bench:
    """Everything that delivery needs.

    Args:
        directory: where the spool lies; None keeps it in memory.
        **fields: settings.
    """

    def __init__(
        self, directory: Path | None = None, is_inherited: bool = False, server: FakeMlflow | None = None, **fields: Any
    ) -> None:
        self.server = server or FakeMlflow()
        self.clock = FakeClock()
        self.said: list[str] = []
        self.notices = Notices(lambda _level, message: self.said.append(message), self.clock)
        self.settings = Settings(**fields)
        self.points, self.spans = Ledger(), Ledger()
        file = SpoolFile.new(directory, self.clock.time_ns()) if directory else None
        self.spool = Spool(file, self.settings, self.notices, self.clock, self.points, self.spans)
        self.client = MlflowClient(self.settings, transport=httpx.MockTransport(self._handle))
        self.run = Destination(self.server.create_run())
        self.run.artifact_root = self.server.run(str(self.run.run_id)).artifact_uri.partition(":/")[2]
        self.requests: list[Request] = []
        self.sent_at: list[float] = []
        self.timeouts: list[float] = []
        self.faults: list[Fault] = []
        self.delivery = Delivery(
            self.settings, self.spool, self.client, self.run, self.notices, self.clock,
            jitter=random.Random(3), is_inherited=is_inherited,
        )  # fmt: skip

    def add(self, some: list[MetricPoint]) -> None:
        self.spool.append_points(some)

    @property
    def stored(self) -> list[MetricPoint]:
        return self.server.points(str(self.run.run_id))

    @property
    def batches(self) -> list[int]:
        """How many points each request had that carried points."""
        bodies = [json.loads(request.body) for request in self.requests if request.path.endswith(LOG_BATCH)]
        return [len(body["metrics"]) for body in bodies if "metrics" in body]

    def fail(self, *answers: httpx.Response | Exception | None, route: str = "", stores: bool = False) -> None:
        """Answer the next requests of a route so; None lets one through. With `stores`, the server has seen them."""
        waiting = list(answers)

        def fault(request: Request) -> httpx.Response | Exception | None:
            if not waiting or route not in request.path:
                return None
            if stores:
                self.server.handle(request)
            return waiting.pop(0)

        self.faults.append(fault)

    def fail_always(self, answer: httpx.Response | Exception, route: str = "") -> None:
        self.faults.append(lambda request: answer if route in request.path else None)

    def check(self) -> None:
        """extracted = sent + kept + dropped."""
        counts = self.points.counts()
        assert counts.extracted == counts.sent + counts.kept + sum(counts.dropped.values())

    def do(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        """Run a scenario on a loop of its own."""

        async def running() -> Any:
            try:
                return await scenario()
            finally:
                await self.client.leave_loop()

        return asyncio.run(running())

    def drain(self, seconds: float = 3600.0, *, is_patient: bool = False) -> bool:
        """Drain, while time flies; says what `Delivery.drain` says."""

        async def scenario() -> bool:
            draining = asyncio.create_task(self.delivery.drain(self.clock.monotonic() + seconds, is_patient=is_patient))
            await self.pass_time(draining.done)
            return await draining

        emptied: bool = self.do(scenario)
        return emptied

    async def pass_time(self, is_over: Callable[[], bool], seconds: float = 100_000.0, step_s: float = 0.05) -> None:
        """Let time pass in small steps, as the worker's drains do, until something holds."""
        end = self.clock.monotonic() + seconds
        while not is_over() and self.clock.monotonic() < end:
            self.delivery.wake()
            for _ in range(5):
                await asyncio.sleep(0)
            if self.clock.sleepers:
                self.clock.advance(step_s)
            else:
                await asyncio.sleep(0.001)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        parts = request.url
        query: dict[str, list[str]] = {}
        for key, value in parts.params.multi_items():
            query.setdefault(key, []).append(value)
        seen = Request(request.method, parts.path, query, dict(request.headers), request.content)
        self.requests.append(seen)
        self.sent_at.append(self.clock.monotonic())
        self.timeouts.append(request.extensions["timeout"]["read"])
        for fault in self.faults:
            answer = fault(seen)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        reply = self.server.handle(seen)
        return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body)
