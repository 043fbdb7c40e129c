"""Waiting that can be cut short: a pause until the next try, and somebody who cannot wait for its end."""

import asyncio

from rltelemetry.clock import Clock

__all__ = ["Alarm"]


class Alarm:
    """Sleeps on the running loop until the time is up or it is rung; one sleeper at a time.

    A ring between two sleeps is not lost: it ends the next one at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._has_rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the sleeper; on its loop's thread."""
        self._has_rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s`, or until the alarm rings."""
        if not self._has_rung:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.create_task(self._time_out(self._waiting, delay_s))
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._has_rung = False

    async def _time_out(self, waiting: "asyncio.Future[None]", delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        if not waiting.done():
            waiting.set_result(None)
