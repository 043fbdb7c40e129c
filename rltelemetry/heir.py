"""Taking over the spool of a process that has died: its run is found, or created if it never existed, marked KILLED if
it still counts as running, and sent what waits. Sending something again is harmless, so an heir may die, too. A spool
that cannot be opened is left as it is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.plan import REASON_TAG, RunPlan
from rltelemetry.reasons import DIED
from rltelemetry.registration import Role
from rltelemetry.run import Run
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import Delivery, Ledger, MlflowClient, Outcome, RunFacts, Spool, SpoolFile

__all__ = ["Heir", "Settlement"]


@dataclass(frozen=True)
class Settlement:
    """What became of a dead process's data.

    Attributes:
        run_url: the run's page; None if it is not known.
        points_sent: points that the server has confirmed now.
        left: what still waits, by kind; points are counted, of the others the rows.
        problem: what kept it from being sent.
    """

    run_url: str | None = None
    points_sent: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


class Heir:
    """Holds one spool whose owner is dead, and sends what is in it.

    Args:
        file: the spool; this process must have acquired it, and it is given up by `settle`.
        settings: how to send; the address of the server is the spool's own.
        notices: where trouble is said.
        clock: the time source.
        run_id: the run, if this process knows it.
        give_way: awaited before each request, by an heir that is not in a hurry.
        wait_s: how long to wait, and do nothing else, for somebody who has the file open.
    """

    def __init__(
        self,
        file: SpoolFile,
        settings: Settings,
        notices: Notices,
        clock: Clock,
        run_id: str | None = None,
        give_way: Callable[[], Awaitable[None]] | None = None,
        wait_s: float = 0.0,
    ) -> None:
        self.points = Ledger()
        self._file = file
        self._settings = settings
        self._notices = notices
        self._clock = clock
        self._give_way = give_way
        self._is_closed = False
        died_at_ms = file.written_at_ns // 1_000_000
        self._spool = Spool(file, settings, notices, clock, self.points, Ledger(), heir_wait_s=wait_s)
        if self._spool.get("died_at_ms") is None:
            self._spool.put("was_owner", self._spool.get("run_id") is not None)  # an heir learns the run's id, too
            self._spool.put("died_at_ms", died_at_ms)
        plan = RunPlan.load(self._spool.facts())
        self.plan = replace(plan, run_id=run_id) if plan and run_id else plan

    @property
    def has_work(self) -> bool:
        """Whether the server must be told anything: data, or that a run is over."""
        return not self._spool.is_empty or self._may_have_died_running()

    async def settle(self, client: MlflowClient, deadline: float, *, is_patient: bool) -> Settlement:
        """Send what waits, as far as it can be sent before `deadline` (monotonic seconds), and give the spool up."""
        try:
            if self._spool.path is None:
                return Settlement(problem="it cannot be opened")
            if not self.has_work:
                return Settlement()
            if self.plan is None:
                return self._left("it does not say which run it belongs to")
            return await self._send(self.plan, client, deadline, is_patient=is_patient)
        finally:
            self.close()

    def close(self) -> None:
        """Give the spool up; what was not sent stays in it, were it only that the run is over. Twice is harmless."""
        if not self._is_closed:
            self._is_closed = True
            self._spool.close(is_needed=self._may_have_died_running())

    async def _send(self, plan: RunPlan, client: MlflowClient, deadline: float, *, is_patient: bool) -> Settlement:
        with self._role() as role:
            run = Run(plan, role, self._settings, self._spool, client, self._notices, self._clock)
            finding = asyncio.create_task(run.start())
            try:
                await run.settle(deadline, is_patient=is_patient)
            finally:
                finding.cancel()
                await asyncio.gather(finding, return_exceptions=True)
        if run.facts is None:
            if client.base_uri == plan.tracking_uri:  # another server does not know the run anyway
                self._forget_if_gone(run.last_failure)
            return self._left(str(run.last_failure or "the server did not answer in time"))
        if self._may_have_died_running():
            if (run.facts.status, run.facts.owner) == ("RUNNING", plan.owner):
                run.finish("KILLED", self._spool.get("died_at_ms"), DIED)
            self._spool.put("is_over", True)
        if self._has_successor(run.facts, plan):
            self._spool.withdraw_calls(_tells_the_end)
        delivery = Delivery(
            self._settings, self._spool, client, run, self._notices, self._clock,
            is_inherited=True, give_way=self._give_way,
        )  # fmt: skip
        is_done = await delivery.drain(deadline, is_patient=is_patient)
        problem = "" if is_done else str(delivery.last_failure or "the time was up")
        return replace(self._left(problem), run_url=run.run_url)

    def _left(self, problem: str) -> Settlement:
        counts = self.points.counts()
        others = {kind: count for kind, count in self._spool.waiting().items() if kind != "points"}
        left = {**({"points": counts.kept} if counts.kept else {}), **others}
        return Settlement(points_sent=counts.sent, left=left, problem=problem)

    def _may_have_died_running(self) -> bool:
        """Whether the dead process looked after a run that exists, and did not say that it was over."""
        is_known = self.plan is not None and self._spool.get("run_id") is not None
        return is_known and not self._file.is_child and not self._spool.get("is_over")

    def _has_successor(self, facts: RunFacts, plan: RunPlan) -> bool:
        """Whether another process has gone on in the run since: its end is that one's to tell.

        A process that never reached the server finds an earlier owner there, whose end is no news if it has come.
        """
        return facts.owner not in {"", plan.owner} and (self._spool.get("was_owner") or facts.status == "RUNNING")

    def _forget_if_gone(self, outcome: Outcome | None) -> None:
        """Do not wait for a run that its server does not know any more, if there is nothing to be sent to it."""
        if outcome is not None and outcome.is_missing and self._spool.is_empty:
            self._spool.put("is_over", True)

    @contextlib.contextmanager
    def _role(self) -> Iterator[Role]:
        """Create the run only while nobody else of the family can."""
        head = self._file.head
        if not self._file.is_child:
            yield "heir"
        elif not head.acquire():
            yield "child"
        else:
            try:
                yield "heir"
            finally:
                head.release(remove=head.is_gone)


def _tells_the_end(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a call says that the run is over, or why."""
    return name == "status" or (name == "tags" and arguments.keys() == {REASON_TAG})
