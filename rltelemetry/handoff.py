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
from contextvars import Context, ContextVar, copy_context
from time import time_ns
from types import EllipsisType
from typing import Any, Final, Literal, NamedTuple

import structlog.contextvars
from opentelemetry.trace import INVALID_SPAN, Span

from rltelemetry.current_span import NO_CONTEXT, SPAN_KEY, read_span_context
from rltelemetry.types import Fields
from rltelemetry.values import clean_field, freeze, safe_text, traceback_text

__all__ = [
    "BOUND_VARIABLES",
    "CELL",
    "CONTEXTVAR_PREFIX",
    "ON_FOREIGN_SPAN",
    "Call",
    "Cell",
    "DropReason",
    "Handoff",
    "Snapshot",
    "SpanEnd",
    "contextvars_may_change",
    "print_plainly",
    "snapshot_fields",
]

DropReason = Literal["full", "error"]
"""Why an event never reached the worker: the queue was full, or a hostile value broke its snapshot."""

ON_FOREIGN_SPAN: Final = object()
"""Stands in `Snapshot.span`: the event was added to somebody else's span already, in the caller."""

CONTEXTVAR_PREFIX: Final = "structlog_"
"""structlog keeps each bound context variable under its key with this prefix."""

BOUND_VARIABLES: Final[Mapping[str, ContextVar[Any]]] = getattr(structlog.contextvars, "_CONTEXT_VARS", {})
"""Every context variable that structlog ever bound: while there is none, a log call need not look for any."""

_FIXED = frozenset({int, float, str, bool, type(None), bytes, EllipsisType})  # `...` is structlog's "not bound"


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
        queue: what waits; `loggers` appends small events itself, everything else comes through `put`.
        watermark: with so many items waiting, `has_room` must be asked.
        wake: wakes the worker; called when the queue becomes half full.
    """

    __slots__ = (
        "_capacity",
        "_capacity_bytes",
        "_on_foreign_span",
        "drops",
        "extra_bytes_added",
        "extra_bytes_taken",
        "own_spans",
        "queue",
        "wake",
        "watermark",
    )

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
        self.watermark = capacity // 2
        self._capacity_bytes = capacity_bytes
        self.own_spans = own_spans
        self._on_foreign_span = on_foreign_span

    def put(
        self,
        level: str,
        logger: str,
        event: Any,
        fields: Fields,
        bound: Mapping[str, Any],
        *,
        stamp_ns: int = 0,
        console: bool = True,
    ) -> None:
        """Take an event of any size and with any values: they are frozen, and their bytes counted."""
        now_ns = stamp_ns or time_ns()
        if len(self.queue) >= self.watermark and not self.has_room():
            return
        text = event if type(event) is str else safe_text(event)  # the worker cleans both
        frozen, size = snapshot_fields(fields)
        size += len(text)
        if self.extra_bytes_added - self.extra_bytes_taken + size > self._capacity_bytes:
            self.drops.append("full")
            return
        span: Any = read_span_context(NO_CONTEXT).get(SPAN_KEY, INVALID_SPAN)
        if span is not INVALID_SPAN and span not in self.own_spans:
            span = self.on_other_span(span, text, frozen, bound, now_ns)
        if BOUND_VARIABLES:
            bound = {**_frozen_contextvars(), **bound}
        self.extra_bytes_added += size
        self.queue.append((now_ns, level, logger, text, frozen, bound, copy_context(), span, size, console))

    def has_room(self) -> bool:
        """Wake the worker when the queue becomes half full; drop and count the event when it is full."""
        waiting = len(self.queue)
        if waiting >= self._capacity:
            # A deque's append is atomic, an attribute's += is not: the worker counts these.
            self.drops.append("full")
            return False
        if waiting == self.watermark:
            self.wake()
        return True

    def on_other_span(self, span: Span, event: str, fields: Fields, bound: Mapping[str, Any], stamp_ns: int) -> Any:
        """Add the event to a span that somebody else will end; one that has ended is left to the worker."""
        if not span.is_recording():
            return span
        self._on_foreign_span(span, event, {**bound, **fields}, stamp_ns)
        return ON_FOREIGN_SPAN

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
        opener: opens a pipeline when an event comes and there is none: in a forked child; else it returns None. It
            never raises.
    """

    def __init__(self) -> None:
        self.active: Handoff | None = None
        self.opener: Callable[[], Handoff | None] = _open_nothing
        self.fallback: Callable[[str, str, Any, Fields], None] = print_plainly

    def handoff(self) -> Handoff | None:
        """Return the queue for an event that is there now; None if there is no pipeline."""
        return self.active or self.opener()


def snapshot_fields(fields: Fields) -> tuple[Fields, int]:
    """Freeze every value, in the caller; exceptions and stacks become text at once, which frees their frames.

    Called from the second frame below the logger's method.

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
            if _is_true(value):
                frozen["stack"] = "".join(traceback.format_stack(sys._getframe(3)))
            continue
        frozen[key] = safe = freeze(value)
        size += 64 + (len(safe) if isinstance(safe, str | bytes) else 0)
    return frozen, size


def contextvars_may_change() -> bool:
    """Whether a value in one of structlog's context variables has to be frozen now."""
    try:
        for variable in BOUND_VARIABLES.values():  # any() costs twice as much
            if type(variable.get(None)) not in _FIXED:
                return True
    except RuntimeError:  # another thread bound one more meanwhile
        return True
    return False


def _frozen_contextvars() -> Fields:
    """Return the values in structlog's context variables that might change after the call, frozen."""
    return {
        name.removeprefix(CONTEXTVAR_PREFIX): freeze(value)
        for name, variable in tuple(BOUND_VARIABLES.items())
        if type(value := variable.get(None)) not in _FIXED
    }


def _exception_text(exc_info: Any) -> str:
    """The traceback of what `exc_info` names: True, an exception or a tuple; empty outside of a handler."""
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        error = next((part for part in exc_info if isinstance(part, BaseException)), None)
    else:
        error = sys.exc_info()[1] if _is_true(exc_info) else None
    return "" if error is None else traceback_text(error)


def _is_true(value: Any) -> bool:
    """Whether a switch is on; a value that cannot say is taken for one that is."""
    try:
        return bool(value)
    except Exception:
        return True


def print_plainly(level: str, logger: str, event: Any, fields: Fields) -> None:
    """Show an event without a pipeline: one line on stderr."""
    pairs = " ".join(f"{name}={clean_field(name, fields[key])}" for key in fields for name in [safe_text(key)])
    if sys.stderr is not None:
        print(f"{level} {logger} {safe_text(event)} {pairs}".rstrip(), file=sys.stderr)


def _nothing() -> None:
    """Wake nobody: the worker has not started."""


def _open_nothing() -> Handoff | None:
    """Open no pipeline: nobody has configured one, or it was closed."""
    return None


CELL: Final = Cell()
