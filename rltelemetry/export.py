"""Everything that ends in MLflow: spool, run, delivery, what takes over from the dead, and the system sampler.

All of it belongs to the worker thread once that runs.
"""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.places import is_makeshift
from rltelemetry.plan import RunPlan
from rltelemetry.recovery import Recovery, sync_command
from rltelemetry.registration import Role
from rltelemetry.run import Run
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import (
    FOREVER,
    Delivery,
    Ledger,
    MlflowClient,
    MlflowSink,
    Spool,
    SpoolFile,
)
from rltelemetry.system import SystemSampler
from rltelemetry.types import MetricPoint, Origin

__all__ = ["MlflowExport"]

CHILDREN_SHARE: Final = 0.3
"""Part of the closing time that is kept for what dead children have left."""


class MlflowExport:
    """The way of one pipeline's data to MLflow.

    Args:
        settings: where to, how patiently.
        origin: whether this is a forked child's pipeline.
        notices: where trouble is said.
        clock: the time source.

    Attributes:
        points: the account of points.
        spans: the account of spans.
        background: what runs beside the drain of the queue.
    """

    def __init__(self, settings: Settings, origin: Origin, notices: Notices, clock: Clock) -> None:
        self.points, self.spans = Ledger(), Ledger()
        self._settings = settings
        self._clock = clock
        self._is_child = origin.is_child
        plan = RunPlan.of(settings, origin, clock.time_ns() // 1_000_000)
        directory = settings.spools
        if is_makeshift(directory):
            notices.once(
                "makeshift",
                f"this user has no home directory: unsent data waits in {directory}, which a restart may empty. "
                "Set RLTELEMETRY_SPOOL_DIR to a directory that lasts.",
            )
        self._file = SpoolFile.new(
            directory,
            clock.time_ns(),
            SpoolFile(origin.spool) if origin.spool else None,
        )
        self._spool = Spool(self._file, settings, notices, clock, self.points, self.spans)
        self._spool.put("plan", plan.facts)
        self._client = MlflowClient(settings)
        role: Role = "child" if origin.is_child else "owner"
        self.run = Run(plan, role, settings, self._spool, self._client, notices, clock)
        self._delivery = Delivery(settings, self._spool, self._client, self.run, notices, clock)
        self.sink = MlflowSink(settings, self._spool, self.points, notices, self._delivery.wake)
        self._recovery = Recovery(self._file, settings, self._client, self._delivery, notices, clock)
        self.background: list[Callable[[], Awaitable[None]]] = [self.run.start, self._delivery.run]
        if not origin.is_child:
            self.background.append(self._recover)
            if settings.system_metrics and importlib.util.find_spec("psutil"):
                self.background.append(self._sample_system)

    @property
    def spool_path(self) -> Path:
        """Where the spool lies, or would if the disk were good: names this process to its children."""
        return self._file.path

    @property
    def is_durable(self) -> bool:
        """Whether the spool lies on a disk, and not in memory for want of a good one."""
        return self._spool.path is not None

    async def drain(self, deadline: float) -> bool:
        """Send everything that waits; says whether that was reached before `deadline`."""
        await self.run.settle(deadline, is_patient=True)
        if self.run.run_id is None and not self.run.is_refused:
            return False
        return await self._delivery.drain(deadline, is_patient=True)

    async def finish(self, deadline: float) -> None:
        """Send what can be sent before `deadline`, for the last time, and give everything back.

        A server that is down is left at once: what waits is on disk. A child does not even wait for the run to be
        known: what it leaves is its parent's to send.
        """
        if not self._is_child:
            await self.run.settle(deadline, is_patient=False)
        own_deadline = deadline
        has_children = not self._file.is_child and bool(self._file.children())
        if has_children:
            own_deadline -= CHILDREN_SHARE * max(0.0, deadline - self._clock.monotonic())
        await self._delivery.drain(own_deadline, is_patient=False)
        if has_children and self.run.run_id is not None:
            await self._recovery.adopt_children(self.run.run_id, deadline)
        await self._client.close()
        self._spool.close()

    async def leave_loop(self) -> None:
        """Let go of everything that belongs to the running loop: another one will be used from here on."""
        self._delivery.forget_loop()
        self._recovery.forget_loop()
        self.run.forget_loop()
        await self._client.leave_loop()

    def describe_kept(self) -> str:
        """Say where unsent data lies and how to send it; empty if there is none, or a parent will see to it."""
        left = self.points.counts().kept + self.spans.counts().kept + self._recovery.points_left
        if self._is_child or (not left and not self._file.path.exists()):
            return ""
        return f"what is kept lies in {self._file.path}; send it with: {sync_command(self._settings)}"

    async def _recover(self) -> None:
        await self.run.settle(FOREVER, is_patient=True)
        if not self.run.is_refused:
            await self._recovery.run()

    async def _sample_system(self) -> None:
        sampler = SystemSampler()
        step = self._settings.system_metrics_first_step
        while True:
            await asyncio.sleep(self._settings.system_metrics_interval_s)
            now_ms = self._clock.time_ns() // 1_000_000
            self.sink.add_points([MetricPoint(key, value, step, now_ms) for key, value in sampler.sample().items()])
            self.sink.commit()
            step += 1
