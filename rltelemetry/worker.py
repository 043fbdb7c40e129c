"""The one thread behind the queue: it takes snapshots off, feeds the sinks, and drives delivery within deadlines.

It polls, since waking it for every event would cost the caller as much as doing the work itself: every 100 ms, less
often when nothing happens, at once when the queue is half full, on a flush and on closing. A failure of one record
costs that record; a failure of a background task or of the loop itself is said once, and it is started again.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Final, Protocol

from rltelemetry.handoff import Call, Handoff
from rltelemetry.intake import Intake
from rltelemetry.notices import Notices

__all__ = ["POLL_S", "Deliverer", "Worker"]

POLL_S: Final = 0.1
"""The longest that an event waits for the spool while there is traffic (0.26 % of a core)."""

IDLE_POLL_S: Final = 0.2
"""The same after IDLE_AFTER_S without an event."""

IDLE_AFTER_S: Final = 5.0

LOOK_S: Final = 1.0
"""How often the sinks are asked to commit while the queue is empty: only the disk's upkeep waits for it then, and most
loops leave most drains empty."""

CHUNK: Final = 500
"""Records between two commits and two looks at the other tasks of the loop."""

RESTART_S: Final = 0.5
"""Pause before something that failed is started again."""

ABANDON_S: Final = 0.5
"""Longest time that a failed loop is given to tidy up."""


class Deliverer(Protocol):
    """What sends the data that the sinks have put aside."""

    async def drain(self, deadline: float) -> bool:
        """Send everything that waits; says whether that was reached before `deadline` (monotonic seconds)."""

    async def finish(self, deadline: float) -> None:
        """Send what can be sent before `deadline`, and give connections and files back."""


class Worker:
    """Runs intake and delivery on a daemon thread.

    Args:
        handoff: the queue to drain.
        intake: takes what is on it.
        delivery: what sends; None when nothing is sent.
        background: makes the coroutines that run beside the drain; each is started again if it fails.
        make_loop: makes the event loop.
        notices: where failures are said.
        on_loop_lost: lets go of what belongs to a loop, before a new one is made after a failure.
    """

    def __init__(
        self,
        handoff: Handoff,
        intake: Intake,
        delivery: Deliverer | None,
        background: Sequence[Callable[[], Awaitable[None]]],
        notices: Notices,
        make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        on_loop_lost: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._handoff = handoff
        self._intake = intake
        self._delivery = delivery
        self._background = background
        self._notices = notices
        self._make_loop = make_loop
        self._on_loop_lost = on_loop_lost or _nobody
        self._closing_at: float | None = None
        self._flushes: set[_Flush] = set()
        self._last_event_at = self._look_at = time.monotonic()
        self._thread = threading.Thread(target=self._main, name="rltelemetry", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything logged before this call has reached its destination; False if it has not."""
        flush = _Flush(time.monotonic() + timeout_s)
        self._put_flush(flush)
        self._handoff.wake()
        return flush.done.wait(timeout_s) and flush.is_complete

    def commit(self, timeout_s: float) -> bool:
        """Wait until every sink has put aside what was logged before this call; False on time-out, or if one failed."""
        done, has_failed = threading.Event(), threading.Event()

        def work() -> None:
            if not self._intake.commit():
                has_failed.set()
            done.set()

        self._handoff.put_unbounded(Call(work))
        self._handoff.wake()
        return done.wait(timeout_s) and not has_failed.is_set()

    def close(self, timeout_s: float) -> bool:
        """Process what waits, send what can be sent, end the thread; False if it did not end in time."""
        self._closing_at = time.monotonic() + timeout_s
        self._handoff.wake()
        self._thread.join(timeout_s + 0.1)
        self._intake.count_leftovers()
        return not self._thread.is_alive()

    def _main(self) -> None:
        while True:
            loop = self._make_loop()
            try:
                loop.run_until_complete(self._live())
                return
            except BaseException as error:
                self._notices.warn("worker", f"the telemetry worker failed and was started again: {error!r}")
                self._abandon(loop)
                if self._closing_at is not None and time.monotonic() + RESTART_S > self._closing_at:
                    return
                time.sleep(RESTART_S)
            finally:
                self._handoff.wake = _nothing
                loop.close()

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tidy up on a loop that has failed, as far as that goes; who waits for a flush goes on waiting."""

        async def leave() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), ABANDON_S)
            await asyncio.wait_for(self._on_loop_lost(), ABANDON_S)

        with contextlib.suppress(Exception):
            loop.run_until_complete(leave())
        for flush in list(self._flushes):
            self._put_flush(flush)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline: asyncio.Future[float] = loop.create_future()
        self._next_tick: asyncio.Handle = loop.call_soon(self._tick, loop)
        own = copy_context()
        self._handoff.wake = lambda: _call_soon(loop, self._tick, own)
        tasks = [asyncio.create_task(self._supervise(start)) for start in self._background]
        try:
            await self._finish(await self._deadline)
        finally:
            self._next_tick.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take what is on the queue, and come back in time: a callback, since a task takes two rounds of the loop."""
        self._next_tick.cancel()
        if self._deadline.done():
            return
        try:
            is_done = self._take_some()
        except BaseException as error:
            self._deadline.set_exception(error)
            return
        if self._closing_at is not None:
            self._deadline.set_result(self._closing_at)
        elif is_done:
            is_idle = time.monotonic() - self._last_event_at > IDLE_AFTER_S
            self._next_tick = loop.call_later(IDLE_POLL_S if is_idle else POLL_S, self._tick, loop)
        else:
            self._next_tick = loop.call_soon(self._tick, loop)

    async def _finish(self, deadline: float) -> None:
        while not self._take_some():
            await asyncio.sleep(0)
        self._intake.end_spans()
        if self._delivery is not None:
            await self._delivery.finish(deadline)

    def _take_some(self) -> bool:
        """Take what is on the queue, at most a piece that leaves the loop alive; False if there is more."""
        waiting, now = len(self._handoff.queue), time.monotonic()
        if waiting:
            self._last_event_at = now
        elif now < self._look_at:
            return True
        self._look_at = now + LOOK_S
        self._intake.take(min(waiting, CHUNK))
        return waiting <= CHUNK

    def _put_flush(self, flush: "_Flush") -> None:
        self._flushes.add(flush)
        self._handoff.put_unbounded(Call(lambda: self._start_flush(flush)))

    def _start_flush(self, flush: "_Flush") -> None:
        flush.task = asyncio.get_running_loop().create_task(self._flush(flush))

    async def _flush(self, flush: "_Flush") -> None:
        try:
            self._intake.commit()
            flush.is_complete = self._delivery is None or await self._delivery.drain(flush.deadline)
        except asyncio.CancelledError:
            raise  # the loop is lost; the next one goes on with it
        except Exception as error:
            self._notices.warn("flush", f"a flush failed: {error!r}")
        self._flushes.discard(flush)
        flush.done.set()

    async def _supervise(self, start: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await start()
                return
            except Exception as error:
                self._notices.warn(f"task {start}", f"a telemetry task failed and was started again: {error!r}")
                await asyncio.sleep(RESTART_S)


class _Flush:
    """Somebody who waits for what was logged before."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done = threading.Event()
        self.task: asyncio.Task[None] | None = None  # the loop itself keeps weak references only
        self.is_complete = False


def _call_soon(
    loop: asyncio.AbstractEventLoop, call: Callable[[asyncio.AbstractEventLoop], None], context: Context
) -> None:
    """Call on the loop's thread, in a context of its own: the caller's would stay in force, and alive, from then on."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: whoever closes it drains the queue
        loop.call_soon_threadsafe(call, loop, context=context)


async def _nobody() -> None:
    """Nothing belongs to the loop."""


def _nothing() -> None:
    """Wake nobody: the worker has ended."""
