"""From the queue to the sinks: what becomes of each item, and the count of those that nothing becomes of.

On the worker's thread. A failure of one record costs that record, a failure of one sink that sink's share of it.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from rltelemetry.chain import to_record
from rltelemetry.handoff import Call, Handoff, Snapshot, SpanEnd
from rltelemetry.notices import Notices
from rltelemetry.types import Record, Sink

__all__ = ["Intake", "SpanSink"]


class SpanSink(Sink, Protocol):
    """The sink that owns the spans."""

    def end_span(self, end: SpanEnd) -> None:
        """End a span that a caller left."""

    def end_open_spans(self, time_ns: int) -> None:
        """End the spans that callers have open."""

    def begin_close(self) -> None:
        """No span comes any more: start to send the rest, without waiting."""


class Intake:
    """Takes items off the queue and shows them to the sinks.

    Args:
        handoff: the queue.
        spans: the tracing sink, or None.
        sinks: every sink, in the order in which they see a record.
        notices: where failures are said.

    Attributes:
        events_processed: events that reached the sinks.
        events_dropped: events that did not, by reason.
    """

    def __init__(self, handoff: Handoff, spans: SpanSink | None, sinks: Sequence[Sink], notices: Notices) -> None:
        self.events_processed = 0
        self.events_dropped: Counter[str] = Counter()
        self._handoff = handoff
        self._spans = spans
        self._sinks = sinks
        self._notices = notices

    def take(self, limit: int) -> None:
        """Process up to `limit` items, and make them durable."""
        queue = self._handoff.queue
        for _ in range(min(limit, len(queue))):
            self._process(queue.popleft())
        self.commit()
        self._count_drops()

    def end_spans(self) -> None:
        """End the spans that callers have left open; none comes after this."""
        if self._spans is not None:
            self._spans.end_open_spans(time.time_ns())
            self.commit()
            self._spans.begin_close()

    def count_leftovers(self) -> None:
        """Count what nobody will process: taken off one by one, so that a worker that still lives counts none twice."""
        self._count_drops()
        queue = self._handoff.queue
        while queue:
            with contextlib.suppress(IndexError):
                if type(queue.popleft()) is tuple:
                    self.events_dropped["late"] += 1

    def _process(self, item: object) -> None:
        try:
            if type(item) is tuple:
                snapshot = Snapshot._make(item)
                self._handoff.extra_bytes_taken += snapshot.extra_bytes
                self._fan_out(to_record(snapshot))
                self.events_processed += 1
            elif isinstance(item, SpanEnd) and self._spans is not None:
                self._spans.end_span(item)
            elif isinstance(item, Call):
                item.run()
        except BaseException as error:
            if type(item) is tuple:
                self.events_dropped["processor"] += 1
            if not isinstance(error, Exception):
                raise  # ends the loop, which is started again
            self._notices.warn("record", f"an event could not be processed and was dropped: {error!r}")

    def _fan_out(self, record: Record) -> None:
        """Show the record to every sink; one that fails does not keep it from the others."""
        for sink in self._sinks:
            try:
                sink.emit(record)
            except Exception as error:
                self._notices.warn(f"sink {type(sink).__name__}", f"{type(sink).__name__} failed: {error!r}")

    def commit(self) -> bool:
        """Let the sinks make what they have durable; says whether all could."""
        is_done = True
        for sink in self._sinks:
            try:
                sink.commit()
            except Exception as error:
                is_done = False
                self._notices.warn(f"sink {type(sink).__name__}", f"{type(sink).__name__} failed: {error!r}")
        return is_done

    def _count_drops(self) -> None:
        drops = self._handoff.take_drops()
        self.events_dropped.update(drops)
        if drops["full"]:
            self._notices.warn(
                "queue", f"{drops['full']} events were dropped: they came faster than they can be processed"
            )
