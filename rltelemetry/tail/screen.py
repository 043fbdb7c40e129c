"""The terminal: each frame is drawn over the last one, so that nothing flickers and the last one stays."""

import asyncio
import shutil
import time
from typing import Final, TextIO

from rltelemetry.labels import Labels, parse_labels
from rltelemetry.settings import Resolved
from rltelemetry.sinks.mlflow import make_loop
from rltelemetry.tail.board import Board
from rltelemetry.tail.frame import Size, frame
from rltelemetry.tail.target import find_target
from rltelemetry.tail.watch import Watch

__all__ = ["Screen", "tail"]

UP: Final = "\x1b[{lines}F"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"
PLAIN_SIZE: Final = (120, 10_000)
"""Where there is no terminal, nothing has to fit."""


class Screen:
    """Draws boards on a stream.

    Args:
        stream: the terminal, or a file.
        labels: the names of the metrics.

    Attributes:
        is_live: whether it can be drawn over.
    """

    def __init__(self, stream: TextIO, labels: Labels | None = None) -> None:
        self.is_live = stream.isatty()
        self.labels = labels or Labels()
        self._stream = stream
        self._num_drawn = 0

    def show(self, board: Board) -> None:
        """Draw a board over the last one."""
        lines = frame(board, self.labels, self._size(), time.time_ns() // 1_000_000)
        if not self.is_live:
            self._stream.write("".join(f"{line}\n" for line in lines))
            return
        up = UP.format(lines=self._num_drawn) if self._num_drawn else ""
        self._stream.write(up + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
        self._stream.flush()
        self._num_drawn = len(lines)

    def _size(self) -> Size:
        columns, lines = shutil.get_terminal_size() if self.is_live else PLAIN_SIZE
        is_unicode = (self._stream.encoding or "").lower().startswith("utf")
        return Size(columns, lines - 1 if self.is_live else lines, is_unicode)  # the cursor stands on the last line


def tail(wish: str | None, resolved: Resolved, screen: Screen, keys: tuple[str, ...], *, is_once: bool) -> None:
    """Show a run until it is over, or once.

    Raises:
        SettingsError: there is no such run.
    """
    overrides = resolved.settings.metric_labels
    screen.labels = Labels(overrides if isinstance(overrides, dict) else parse_labels(overrides)[0])

    async def work() -> None:
        target = await find_target(wish, resolved.settings)
        watch = Watch(target, resolved, screen.show, keys)
        try:
            await (watch.once() if is_once else watch.follow())
        finally:
            await watch.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(work())
