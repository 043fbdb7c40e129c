"""The caller's side of the pipeline: freeze an event, stamp it, append it to a bounded queue. Nothing else.

A log call ends here for the caller: no I/O, no lock, no exception. Everything after the append happens on the worker
thread, which takes the items off in order:

- a plain tuple with the fields of `Snapshot`: a log call (a plain tuple, since building a NamedTuple costs 0.3 us);
- `SpanEnd`: a span that the caller left; it stands behind the events that were logged inside the span;
- `Call`: something else that the worker shall do at this place of the order.

Ends and calls bypass the bound: they are few, and losing one would lose a whole span, parameter or status.
"""

import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from time import time_ns
from typing import Any, Final, Literal, NamedTuple

from opentelemetry.trace import INVALID_SPAN, Span

from rltelemetry.current_span import current_span
from rltelemetry.redact import freeze, safe_text
from rltelemetry.types import Fields

__all__ = [
    "CELL",
    "ON_FOREIGN_SPAN",
    "Call",
    "Cell",
    "DropReason",
    "Handoff",
    "Snapshot",
    "SpanEnd",
    "print_plainly",
    "snapshot_fields",
]

DropReason = Literal["full", "error"]
"""Why an event never reached the worker: the queue was full, or a hostile value broke its snapshot."""

FAST_FIELDS: Final = 64
"""Events with more fields are sized exactly; one with fewer cannot be large."""

FAST_TEXT: Final = 256
"""Longer strings are sized exactly (and cut by `freeze`)."""

ON_FOREIGN_SPAN: Final = object()
"""Stands in `Snapshot.span`: the event was added to somebody else's span already, in the caller."""


class Snapshot(NamedTuple):
    """What one log call leaves behind: nothing in it can change any more."""

    time_ns: int
    level: str
    logger: str
    event: str
    fields: Fields
    bound: Mapping[str, Any]
    contextvars: Context
    span: Any
    extra_bytes: int
    console: bool


class SpanEnd(NamedTuple):
    """A span that was left at `time_ns`, with the text of the exception that left it."""

    span: Span
    time_ns: int
    error: tuple[str, str, str] | None = None


class Call(NamedTuple):
    """Work for the worker, in the order of the queue."""

    run: Callable[[], None]


class Handoff:
    """The bounded queue between the callers and one worker.

    Args:
        capacity: events that may wait; the newest is dropped, and counted, when it is full.
        capacity_bytes: bytes that oversized fields may hold among them.
        own_spans: the spans that the worker will end; an event on any other recording span is added at once.
        on_foreign_span: adds an event to a span that is not ours.

    Attributes:
        wake: wakes the worker; called when the queue becomes half full.
    """

    def __init__(
        self,
        capacity: int,
        capacity_bytes: int,
        own_spans: set[Span],
        on_foreign_span: Callable[[Span, str, Mapping[str, Any], int], None],
    ) -> None:
        self.queue: deque[Any] = deque()
        self.drops: deque[DropReason] = deque()
        self.wake: Callable[[], None] = _nothing
        self.extra_bytes_added = 0
        self.extra_bytes_taken = 0
        self._capacity = capacity
        self._watermark = capacity // 2
        self._capacity_bytes = capacity_bytes
        self._own_spans = own_spans
        self._on_foreign_span = on_foreign_span

    def put(
        self,
        level: str,
        logger: str,
        event: Any,
        fields: Fields,
        bound: Mapping[str, Any],
        stamp_ns: int = 0,
        console: bool = True,
    ) -> None:
        """Take one event; `fields` belongs to the queue from here on. May raise only what a hostile value raises."""
        queue = self.queue
        waiting = len(queue)
        if waiting >= self._watermark:
            if waiting >= self._capacity:
                # A deque's append is atomic, an attribute's += is not: the worker counts these.
                self.drops.append("full")
                return
            if waiting == self._watermark:
                self.wake()
        extra_bytes = 0
        if type(event) is not str or len(event) > FAST_TEXT:
            event = safe_text(event)
            extra_bytes = len(event)
        for value in fields.values():
            kind = type(value)
            if kind is float or kind is int or (kind is str and len(value) <= FAST_TEXT) or value is None:
                continue
            fields, size = snapshot_fields(fields)
            extra_bytes += size
            break
        else:
            if len(fields) > FAST_FIELDS:
                extra_bytes += 128 * len(fields)
        if extra_bytes:
            if self.extra_bytes_added - self.extra_bytes_taken + extra_bytes > self._capacity_bytes:
                self.drops.append("full")
                return
            self.extra_bytes_added += extra_bytes
        now_ns = stamp_ns or time_ns()
        span: Any = current_span()
        if span is not INVALID_SPAN and span not in self._own_spans and span.is_recording():
            self._on_foreign_span(span, event, {**bound, **fields}, now_ns)
            span = ON_FOREIGN_SPAN
        queue.append((now_ns, level, logger, event, fields, bound, copy_context(), span, extra_bytes, console))

    def put_unbounded(self, item: SpanEnd | Call) -> None:
        """Append something that must not be lost."""
        self.queue.append(item)

    def take_drops(self) -> Counter[DropReason]:
        """Count by reason the events that were dropped since the last call; for the worker."""
        return Counter(self.drops.popleft() for _ in range(len(self.drops)))


class Cell:
    """The one place where loggers find the pipeline, so that closing and configuring again reaches cached loggers.

    Attributes:
        active: the open pipeline's queue, None when there is none.
        fallback: shows an event when there is no pipeline: `fallback(level, logger, event, fields)`.
    """

    def __init__(self) -> None:
        self.active: Handoff | None = None
        self.fallback: Callable[[str, str, Any, Fields], None] = print_plainly


def snapshot_fields(fields: Fields) -> tuple[Fields, int]:
    """Freeze every value, in the caller; exceptions and stacks become text at once, which frees their frames.

    Returns:
        The frozen fields and an upper estimate of their size in bytes.
    """
    frozen: Fields = {}
    size = 0
    for key, value in fields.items():
        if key == "exc_info":
            if text := _exception_text(value):
                frozen["exception"] = text
                size += len(text)
            continue
        if key == "stack_info":
            if value:
                frozen["stack"] = "".join(traceback.format_stack(sys._getframe(3)))
            continue
        frozen[key] = safe = freeze(value)
        size += 64 + (len(safe) if isinstance(safe, str | bytes) else 0)
    return frozen, size


def _exception_text(exc_info: Any) -> str:
    """The traceback of what `exc_info` names: True, an exception or a tuple; empty outside of a handler."""
    if not exc_info:
        return ""
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        error = next((part for part in exc_info if isinstance(part, BaseException)), None)
    else:
        error = sys.exc_info()[1]
    if error is None:
        return ""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception:
        return f"<{type(error).__name__}: its text cannot be read>"


def print_plainly(level: str, logger: str, event: Any, fields: Fields) -> None:
    """Show an event without a pipeline: one line on stderr."""
    pairs = " ".join(f"{safe_text(key)}={safe_text(value)}" for key, value in fields.items())
    if sys.stderr is not None:
        print(f"{level} {logger} {safe_text(event)} {pairs}".rstrip(), file=sys.stderr)


def _nothing() -> None:
    """Wake nobody: the worker has not started."""


CELL: Final = Cell()
