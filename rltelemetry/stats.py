"""What became of everything: exact counts, and the line that says them at the end of a run.

Events: emitted = processed + dropped. Points: extracted = sent + kept + dropped by reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Stats"]


@dataclass(frozen=True)
class Stats:
    """Counts since `configure`.

    Attributes:
        events_processed: events that reached the sinks.
        events_dropped: events that did not, by reason (full, error, processor, late, closed).
        points_extracted: metric points that the processed events held.
        points_sent: points that MLflow has confirmed.
        points_kept: points that wait in the spool.
        points_dropped: points that can never be sent, by reason.
        spans_sent: spans that MLflow has confirmed.
        spans_kept: spans that wait in the spool.
        spans_dropped: spans that can never be sent, by reason.
        spans_unconfirmed: spans that an OTLP back end beside MLflow has not confirmed; after the end it never will.
    """

    events_processed: int = 0
    events_dropped: Mapping[str, int] = field(default_factory=dict)
    points_extracted: int = 0
    points_sent: int = 0
    points_kept: int = 0
    points_dropped: Mapping[str, int] = field(default_factory=dict)
    spans_sent: int = 0
    spans_kept: int = 0
    spans_dropped: Mapping[str, int] = field(default_factory=dict)
    spans_unconfirmed: int = 0

    @property
    def events_emitted(self) -> int:
        """Log calls that passed the filter."""
        return self.events_processed + sum(self.events_dropped.values())

    def __str__(self) -> str:
        """One line for the end of a run."""
        line = (
            f"events: {self.events_processed} processed, {_total(self.events_dropped)} dropped; "
            f"points: {self.points_sent} sent, {self.points_kept} kept, {_total(self.points_dropped)} dropped"
        )
        if self.spans_sent or self.spans_kept or self.spans_dropped:
            line += f"; spans: {self.spans_sent} sent, {self.spans_kept} kept, {_total(self.spans_dropped)} dropped"
        if self.spans_unconfirmed:
            line += f"; OTLP back end: {self.spans_unconfirmed} lost"
        return line


def _total(by_reason: Mapping[str, int]) -> str:
    counted = {reason: count for reason, count in by_reason.items() if count}
    detail = ", ".join(f"{reason} {count}" for reason, count in sorted(counted.items()))
    return f"{sum(counted.values())} ({detail})" if counted else "0"
