"""Which spools of dead processes this one takes over, and when: in the background, and never in the way of its own run.

Left behind by whatever killed them: an earlier run on this machine, a forked child that left without a word; but the
child of a living parent is that one's to look after. Each is tried once; what cannot be sent is left to the next start,
and to `rltelemetry sync`.
"""

import asyncio
import shlex
from pathlib import Path
from typing import Final

from rltelemetry.clock import Clock
from rltelemetry.heir import Heir, Settlement
from rltelemetry.notices import Notices
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import FOREVER, Delivery, MlflowClient, SpoolFile

__all__ = ["Recovery", "describe", "sync_command"]

ROUND_S: Final = 60.0
"""How often to look for processes that have died meanwhile."""

REST_S: Final = 0.1
"""Pause before each request in the background: what is old already can wait."""


class Recovery:
    """Takes over what others have left.

    Args:
        file: this process's own spool; the others lie beside it.
        settings: which server, and how to send.
        client: this process's way to it.
        delivery: what this process sends itself: it goes first.
        notices: where it is said what was sent.
        clock: the time source.

    Attributes:
        points_left: points of children that could not be sent in time.
    """

    def __init__(
        self,
        file: SpoolFile,
        settings: Settings,
        client: MlflowClient,
        delivery: Delivery,
        notices: Notices,
        clock: Clock,
    ) -> None:
        self.points_left = 0
        self._file = file
        self._settings = settings
        self._client = client
        self._delivery = delivery
        self._notices = notices
        self._clock = clock
        self._tried: set[Path] = set()
        self._current: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look for abandoned spools for ever; ends by being cancelled, at any point without harm."""
        while True:
            for file in SpoolFile.all_in(self._file.path.parent):
                if file.path not in self._tried and not self._is_cared_for(file) and file.acquire_abandoned():
                    self._tried.add(file.path)
                    self._current = asyncio.create_task(self._take_over(file))
                    await self._current
            await self._clock.sleep(ROUND_S)

    async def adopt_children(self, run_id: str, deadline: float) -> None:
        """Send what dead children of this process have left; theirs is the run of this one.

        Ends what goes on in the background, which might be busy with one of them, without haste.
        """
        if self._current is not None:
            self._current.cancel()
            await asyncio.gather(self._current, return_exceptions=True)
        for file in self._file.children():
            if self._clock.monotonic() < deadline and file.acquire_abandoned():
                heir = Heir(file, self._settings, self._notices, self._clock, run_id)
                settlement = await heir.settle(self._client, deadline, is_patient=False)
                self.points_left += settlement.left.get("points", 0)

    def forget_loop(self) -> None:
        """Start anew: the loop is gone, and with it whoever was sending."""
        self._current = None

    def _is_cared_for(self, file: SpoolFile) -> bool:
        """Whether it is of another family, whose head lives: the moment that we hold it may be that one's last."""
        return file.is_child and file.family != self._file.family and file.head.is_owned()

    async def _take_over(self, file: SpoolFile) -> None:
        heir = Heir(file, self._settings, self._notices, self._clock, give_way=self._give_way)
        if heir.plan is not None and heir.plan.tracking_uri != self._settings.tracking_uri:
            self._leave(heir, heir.plan.tracking_uri)
            return
        settlement = await heir.settle(self._client, FOREVER, is_patient=False)
        if text := describe(settlement):
            self._notices.info(f"of an earlier process ({file.path.name}): {text}")

    def _leave(self, heir: Heir, tracking_uri: str) -> None:
        """Leave a spool alone that is for another server: credentials are for our own only."""
        if heir.has_work:
            sync, ours = sync_command(self._settings), self._settings.tracking_uri
            is_made = heir.plan is not None and heir.plan.run_id is not None  # there, and nowhere else
            same = "if that is the same server under another address" if is_made else "or to this run's server"
            self._notices.once(
                f"left for {tracking_uri}",
                f"an earlier process left data for the MLflow server at {tracking_uri}, which is not this run's. "
                f"Send it there with: {sync}; {same}, with: {sync} --tracking-uri {ours}",
            )
        heir.close()

    async def _give_way(self) -> None:
        await self._clock.sleep(REST_S)
        while self._delivery.is_sending:
            await self._clock.sleep(REST_S)


def sync_command(settings: Settings) -> str:
    """Return the command that sends what is left."""
    where = f" {shlex.quote(str(settings.spool_dir))}" if settings.spool_dir else ""
    return f"rltelemetry sync{where}"


def describe(settlement: Settlement) -> str:
    """Say what became of a spool; empty if there was nothing in it."""
    parts = []
    if settlement.run_url is not None and settlement.points_sent:
        parts.append(f"{settlement.points_sent} points sent to {settlement.run_url}")
    elif settlement.run_url is not None and not settlement.left:
        parts.append(f"all that it held was sent to {settlement.run_url}")
    if settlement.left:
        left = ", ".join(f"{count} {_UNITS[kind]}" for kind, count in settlement.left.items())
        parts.append(f"{left} left")
    if settlement.problem:
        parts.append(settlement.problem)
    return "; ".join(parts)


_UNITS: Final = {"points": "points", "traces": "trace rows", "call": "calls", "artifact": "artifacts"}
