"""The parts of a pipeline over its life: built, lost to a fork, built anew in the child, closed.

The program holds one `Telemetry` all that time. A forked child builds parts of its own when it first needs them, and
keeps the parent's untouched; parts that cannot be built there cost the child its telemetry and nothing else.
"""

import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from rltelemetry.channels import set_thresholds
from rltelemetry.endings import Status
from rltelemetry.handoff import CELL, Call, print_plainly
from rltelemetry.settings import Resolved
from rltelemetry.stdlib import StdlibHandler
from rltelemetry.types import Origin

if TYPE_CHECKING:
    from rltelemetry.parts import Parts

__all__ = ["Life"]


class Life:
    """Owns the parts of one pipeline.

    Args:
        resolved: the settings in force.
        is_worker: whether another process has started this one, and owns the run.
        on_child: called in a forked child as soon as it has parts of its own.

    Attributes:
        is_closed: whether it is over; nothing is built after that.
        origin: what the parts are built for.
        lock: held while parts are built or closed; a signal handler may come again on the thread that holds it.
        parts: the parts as they are, a closed pipeline's included; None in a forked child that has not built its own.
    """

    def __init__(self, resolved: Resolved, *, is_worker: bool, on_child: Callable[[], None]) -> None:
        self.is_closed = False
        self.origin = Origin(resolved.settings.client_uuid or str(uuid.uuid4()), is_child=is_worker)
        self.lock = threading.RLock()
        self.parts: Parts | None = None
        self._resolved = resolved
        self._is_building = False
        self._on_child = on_child

    @property
    def open_parts(self) -> "Parts | None":
        """The parts; None before a forked child has made its own, and after the end, when no worker would answer."""
        return None if self.is_closed else self.parts

    def working_parts(self) -> "Parts | None":
        """The parts; a forked child makes its own when it first needs them. None after the end, or if that fails."""
        if self.is_closed or self.parts is not None:
            return self.open_parts
        with self.lock:
            if self.is_closed or self._is_building or self.parts is not None:
                return self.open_parts  # a signal handler that logs comes here while its own thread builds
            self._is_building = True
            try:
                parts = self.build()
                self._on_child()
                return parts
            except Exception as error:  # out of threads, of memory, of descriptors: the training goes on without us
                self.is_closed = True
                print_plainly("error", "rltelemetry", "this forked child has no telemetry", {"error": error})
                return None
            finally:
                self._is_building = False

    def build(self) -> "Parts":
        """Make and start the parts, here or, at its first event, in a forked child."""
        # Loads httpx and the OpenTelemetry SDK, which importing this package must not.
        from rltelemetry.parts import Parts

        parts = Parts(self._resolved, self.origin)
        parts.start()
        self.parts = parts
        set_thresholds(parts.filter.threshold)
        self._stdlib = StdlibHandler(parts.filter.threshold)
        self._stdlib.install(parts.filter.lowest)
        CELL.active = parts.handoff
        return parts

    def become_child(self) -> None:
        """Forget the parent's parts, in a forked child; they are kept, so that nothing of the parent's is closed."""
        self._inherited = self.parts
        self.lock = threading.RLock()
        self._is_building = False
        run_id, spool = self.origin.run_id, self.origin.spool
        if self.parts is not None:
            run_id = (self.parts.run and self.parts.run.run_id) or run_id
            spool = self.parts.spool_path or spool
        self.origin = Origin(self.origin.client_uuid, run_id, is_child=True, spool=spool)
        self.parts = None

    def close(self, status: Status, timeout_s: float, reason: str) -> None:
        """End the run and close the parts, if there are any; once, with the lock held and `is_closed` set."""
        parts, deadline = self.parts, time.monotonic() + timeout_s
        if parts is None:
            return
        if CELL.active is parts.handoff:
            CELL.active = None
        self._stdlib.remove()
        if (run := parts.run) is not None:
            end_ms = time.time_ns() // 1_000_000
            parts.handoff.put_unbounded(Call(lambda: run.finish(status, end_ms, reason)))
        parts.close(deadline)
