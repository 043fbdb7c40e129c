"""A run's life on the server: found or created, tagged, kept alive, ended.

A server that cannot be reached is waited for; one that refuses (4xx) switches metrics off, with one warning: the spool
keeps the points. Only its owner tags, ends and keeps a run alive; a forked child follows its parent's.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.plan import HEARTBEAT_TAG, REASON_TAG, RunPlan
from rltelemetry.redact import cut
from rltelemetry.registration import Registration, Role
from rltelemetry.schema import MAX_ENTRIES
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import (
    Alarm,
    Breaker,
    MlflowClient,
    Outcome,
    Patience,
    RunFacts,
    Spool,
    Verdict,
    run_page,
)

__all__ = ["Run"]

HEARTBEAT_S: Final = 60.0
MAX_BACKOFF_S: Final = 5.0
"""Longest pause between two tries to reach a server that is starting or behind a tunnel."""

MAX_TEXT: Final = 1 << 20
"""Characters of a text that waits in the spool's database; more belongs into a file."""


class Run:
    """The run that a pipeline logs into.

    Args:
        plan: which run.
        role: what this process is to it.
        settings: how patiently the server is asked.
        spool: remembers the run for the next process, and carries its calls.
        client: the server.
        notices: where the run's page, or the refusal, is said.
        clock: the time source.
    """

    def __init__(
        self,
        plan: RunPlan,
        role: Role,
        settings: Settings,
        spool: Spool,
        client: MlflowClient,
        notices: Notices,
        clock: Clock,
    ) -> None:
        self.run_id = plan.run_id if role == "child" else None
        self.facts: RunFacts | None = None
        self.is_refused = False
        self.last_failure: Outcome | None = None
        self._role = role
        self._spool = spool
        self._client = client
        self._notices = notices
        self._clock = clock
        self._settled = threading.Event()
        self._complain_from = clock.monotonic() + settings.startup_s
        self._patience = Patience(settings.request_timeout_s, clock)
        self._registration = Registration(plan, role, client, self._patience)
        self._breaker = Breaker(settings.request_attempts, clock, random.Random(), MAX_BACKOFF_S)
        self.forget_loop()

    @property
    def experiment_id(self) -> str | None:
        """Where the run lies; None until it is known."""
        return self.facts.experiment_id if self.facts else None

    @property
    def artifact_root(self) -> str | None:
        """Where its artifacts go; None if the server takes none."""
        return self.facts.artifact_root if self.facts else None

    @property
    def run_url(self) -> str | None:
        """The run's page; None until the run is known."""
        if self.run_id is None or self.experiment_id is None:
            return None
        return run_page(self._client.base_uri, self.experiment_id, self.run_id)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait, on any thread, until the run is known; False if it was refused or the time is up."""
        return self._settled.wait(timeout_s) and not self.is_refused

    async def start(self) -> None:
        """Find or create the run, however long that takes, then keep it alive; ends by being cancelled."""
        while not self._settled.is_set():
            await self.find_or_create()
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
            if not self._settled.is_set():
                self._complain()
                await self._alarm.sleep(max(0.0, self._breaker.next_try_at - self._clock.monotonic()))
        if self._role == "owner" and not self.is_refused:
            await self._keep_alive()

    async def settle(self, deadline: float, *, is_patient: bool) -> None:
        """Wait until the run is known or refused, or `deadline` (monotonic seconds) has come.

        Args:
            deadline: when to give up.
            is_patient: whether to wait for a server that is down; else it is left once it counts as down.
        """
        self._breaker.forgive()
        self._alarm.ring()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                while not self._settled.is_set():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
                    if self._breaker.is_open and not is_patient:
                        return

    async def find_or_create(self) -> None:
        """Try once; `is_refused`, `run_id` and `last_failure` say what came of it."""
        outcome = await self._registration.register()
        if isinstance(outcome, RunFacts):
            self._know(outcome)
            return
        self.last_failure = outcome
        self._breaker.fail(outcome)
        if outcome.is_timeout:
            self._patience.grow()
        if _is_definitive(outcome):
            self._refuse(outcome)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Queue parameters."""
        self._append_entries("params", params)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags."""
        self._append_entries("tags", tags)

    def log_artifact(self, path: str, name: str) -> None:
        """Queue a file."""
        self._spool.append_artifact(name, {"path": path})

    def log_text(self, text: str, name: str) -> None:
        """Queue a text that becomes a file."""
        self._spool.append_artifact(name, {"text": cut(text, MAX_TEXT)})  # its tabs and ends of lines are the file's

    def remove_artifact(self, name: str) -> None:
        """Queue the removal of a file."""
        self._spool.append_artifact(name, {})

    def finish(self, status: str, end_time_ms: int, reason: str) -> None:
        """Queue the end of the run, if it is ours to end; an empty reason needs no mention."""
        if self._role != "child":
            if reason:
                self.set_tags({REASON_TAG: reason})
            self._spool.append_call("status", {"status": status, "end_time_ms": end_time_ms})
            self._spool.put("is_over", True)

    def forget_loop(self) -> None:
        """Start anew: the loop is gone, and with it whoever was waiting."""
        self._alarm = Alarm(self._clock)
        self._waiters: list[asyncio.Future[None]] = []

    def _append_entries(self, name: str, texts: Mapping[str, str]) -> None:
        items = list(texts.items())
        for start in range(0, len(items), MAX_ENTRIES):
            self._spool.append_call(name, dict(items[start : start + MAX_ENTRIES]))

    def _know(self, facts: RunFacts) -> None:
        self.facts = facts
        self.run_id = facts.run_id
        self._breaker.succeed()
        self._spool.put("run_id", facts.run_id)
        self._settled.set()
        if self._role == "owner":
            self._notices.info(f"MLflow run: {self.run_url}")

    def _refuse(self, outcome: Outcome) -> None:
        self.is_refused = True
        self._settled.set()
        if self._role == "owner":
            self._notices.once(
                "run refused",
                f"metrics are off for this run: MLflow at {self._client.base_uri} refuses it: {outcome} "
                "Points are kept on disk; training and traces go on.",
            )

    def _complain(self) -> None:
        """Say that the server is away; a child leaves that to its parent."""
        outcome = self.last_failure
        is_starting = self._clock.monotonic() < self._complain_from
        if outcome is not None and self._breaker.is_open and self._role == "owner" and not is_starting:
            self._notices.warn(
                f"run {outcome.cause[:40]}",
                f"MLflow at {self._client.base_uri} cannot be reached: {outcome} "
                "Training goes on; the data is kept and sent when it answers.",
            )

    async def _keep_alive(self) -> None:
        """Tag the run with the time, best effort, so that a viewer can tell a dead run from a silent one."""
        while self.facts is not None:
            stamp = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).isoformat(timespec="seconds")
            await self._client.set_tags(self.facts.run_id, {HEARTBEAT_TAG: stamp}, self._patience.left_s())
            await self._registration.remove_twins(self.facts)
            await self._clock.sleep(HEARTBEAT_S)


def _is_definitive(outcome: Outcome) -> bool:
    """Whether asking again is pointless: a client error, but for those that pass."""
    return 400 <= outcome.status < 500 and outcome.verdict is not Verdict.RETRY
