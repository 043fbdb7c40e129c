"""`rltelemetry sync`: send what the spools of dead processes hold, whenever and wherever there is a server for it.

Safe to run twice, and beside a training: a spool belongs to whoever holds its lock, and sending something again changes
nothing. Each spool knows its server and its run; the run is created if it never existed, and marked KILLED if its owner
died without a word.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from rltelemetry.clock import SystemClock
from rltelemetry.errors import SettingsError
from rltelemetry.heir import Heir
from rltelemetry.notices import Notices
from rltelemetry.recovery import describe
from rltelemetry.settings import Resolved, resolve
from rltelemetry.sinks.mlflow import FOREVER, MlflowClient, SpoolFile, make_loop

__all__ = ["sync"]

PROGRESS_S: Final = 2.0
"""A backlog of hours takes minutes: somebody watches."""

READER_S: Final = 5.0
"""On a network file system whoever reads a spool, as `rltelemetry tail` does, keeps it from being opened meanwhile."""


def sync(
    directory: Path | None,
    say: Callable[[str], None],
    environ: Mapping[str, str],
    *,
    tracking_uri: str | None = None,
    is_patient: bool = False,
) -> bool:
    """Send what waits in a directory.

    Args:
        directory: where the spools are; the usual place if not given.
        say: takes a line about what happens.
        environ: the environment, for address and credentials.
        tracking_uri: the server to send to, in place of those that the spools name.
        is_patient: whether to wait for a server that is down.

    Returns:
        Whether nothing is left; what a running process is sending itself does not count.

    Raises:
        SettingsError: the directory does not exist, or the address cannot be used.
    """
    if directory is not None and not directory.is_dir():
        raise SettingsError(
            f"directory: got {directory}; expected an existing directory. Give the one with the spools."
        )
    resolved = resolve({"tracking_uri": tracking_uri}, environ)
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(_Sync(resolved, say, is_patient=is_patient).run(directory))


class _Sync:
    def __init__(self, resolved: Resolved, say: Callable[[str], None], *, is_patient: bool) -> None:
        self._resolved = resolved
        self._say = say
        self._is_patient = is_patient
        self._clock = SystemClock()
        self._notices = Notices(lambda _level, message: say(message), self._clock)

    async def run(self, directory: Path | None) -> bool:
        folder = directory or self._resolved.settings.spools
        num_taken = num_left = 0
        for file in SpoolFile.all_in(folder):
            if file.acquire_abandoned():
                num_taken += 1
                num_left += not await self._send(file)
            elif file.path.exists():
                self._say(f"{file.path.name}: a running process is sending it")
        if num_left:
            self._say(f"{num_left} of {num_taken} spools in {folder} still hold data")
        else:
            self._say(f"nothing is left in {folder}")
        return num_left == 0

    async def _send(self, file: SpoolFile) -> bool:
        """Send one spool; says whether nothing is left in it."""
        heir = Heir(file, self._resolved.settings, self._notices, self._clock, wait_s=READER_S)
        settings = self._resolved.aimed_at(heir.plan.tracking_uri) if heir.plan else self._resolved.settings
        client = MlflowClient(settings)
        try:
            async with self._progress(file.path.name, heir):
                settlement = await heir.settle(client, FOREVER, is_patient=self._is_patient)
        finally:
            heir.close()
            await client.close()
        if text := describe(settlement):
            self._say(f"{file.path.name}: {text}")
        return not settlement.left and not settlement.problem

    @contextlib.asynccontextmanager
    async def _progress(self, name: str, heir: Heir) -> AsyncIterator[None]:
        async def report() -> None:
            while True:
                await self._clock.sleep(PROGRESS_S)
                counts = heir.points.counts()
                if counts.extracted:
                    self._say(f"{name}: {counts.sent} of {counts.extracted} points")

        reporting = asyncio.create_task(report())
        try:
            yield
        finally:
            reporting.cancel()
