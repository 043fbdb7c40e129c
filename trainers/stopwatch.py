"""How long the parts of an update take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Times the parts of each update, and the whole."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        """Since the watch was made."""
        return time.perf_counter() - self._start

    @property
    def training_s(self) -> float:
        """Of this update; evaluation does not slow training down, and is not counted."""
        return self._seconds.get("rollout", 0.0) + self._seconds.get("update", 0.0)

    def begin_update(self) -> None:
        """Forget the parts of the update before."""
        self._seconds = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Time a block, also one that fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = time.perf_counter() - start

    def milliseconds(self, part: str) -> float | None:
        """Of one part of this update; None if there was no such part."""
        return 1000 * self._seconds[part] if part in self._seconds else None

    def throughput(self, num_steps: int) -> dict[str, float | None]:
        """What MISC says of one update."""
        durations = {f"{part}_duration_ms": self.milliseconds(part) for part in ("rollout", "update", "evaluation")}
        return {"steps_per_second": num_steps / self.training_s, **durations}
