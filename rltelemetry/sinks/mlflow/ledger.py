"""The account of points, or of spans: extracted = sent + kept + dropped, at every moment and as seen from any thread.

Each movement is one step under a lock, so that `counts` never sees half of one.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Counts", "Ledger"]


@dataclass(frozen=True)
class Counts:
    """What became of everything so far.

    Attributes:
        extracted: what events, spans or the system gave.
        sent: what the server has confirmed.
        kept: what waits.
        dropped: what will never be sent, by reason.
    """

    extracted: int = 0
    sent: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """Moves items from one column to another. The worker writes, any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may read while the main thread does
        self._extracted = self._sent = self._kept = 0
        self._dropped: Counter[str] = Counter()

    @property
    def kept(self) -> int:
        """How many items wait."""
        with self._lock:
            return self._kept

    def extract(self, count: int) -> None:
        """Take items in: they wait from here on."""
        with self._lock:
            self._extracted += count
            self._kept += count

    def refuse(self, reason: str, count: int = 1) -> None:
        """Take items in that can never be sent."""
        with self._lock:
            self._extracted += count
            self._dropped[reason] += count

    def send(self, count: int) -> None:
        """Let items go that the server has confirmed."""
        with self._lock:
            self._kept -= count
            self._sent += count

    def drop(self, reason: str, count: int) -> None:
        """Let items go that are lost."""
        if count:
            with self._lock:
                self._kept -= count
                self._dropped[reason] += count

    def dropped(self, reason: str) -> int:
        """How many items were lost for a reason."""
        with self._lock:
            return self._dropped[reason]

    def counts(self) -> Counts:
        """Read all columns at one moment."""
        with self._lock:
            return Counts(self._extracted, self._sent, self._kept, dict(self._dropped))
