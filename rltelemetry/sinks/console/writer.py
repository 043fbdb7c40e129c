"""Lines to a stream that may stall for hours, such as the pty of a sleeping ssh client, without stalling anybody.

Whoever puts a line only appends to a bounded deque; one daemon thread writes. When the deque is full the oldest
lines go, with a count that is told as soon as the stream takes lines again. A stream that is gone ends it in silence.
On a terminal one line may stay below all others, as a progress bar does: it is wiped before lines are written, and put
there again behind them.
"""

import errno
import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

__all__ = ["MAX_CHARACTERS", "MAX_LINES", "LineWriter"]

MAX_LINES = 8192
MAX_CHARACTERS = 8 * 2**20
"""What may wait for a stalled stream: hours of a dashboard, and little beside a training's memory."""

_WAKE_LINES = 256  # a long drain is written while it is still being rendered
_BATCH_CHARACTERS = 65_536
_WIPE = "\r\x1b[2K"  # back to the start of the line that the cursor is in, and clear it
_COLUMNS = 80
_GONE = frozenset({errno.EBADF, errno.EIO, errno.ENXIO, errno.EPIPE})
_RETRY_MS = 100


class LineWriter:
    """A bounded, never blocking way to a text stream.

    Args:
        stream: where the lines go.
        describe_dropped: makes the line that tells of a number of lost lines.
        max_lines: lines that may wait.
        max_characters: characters that may wait.
    """

    def __init__(
        self,
        stream: TextIO,
        describe_dropped: Callable[[int], str],
        max_lines: int = MAX_LINES,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self._stream = stream
        self._describe_dropped = describe_dropped
        self._max_lines = max_lines
        self._max_characters = max_characters
        self._lines: deque[str] = deque()
        self._characters = 0
        self._dropped = 0
        self._footer = self._shown_footer = ""
        self._state = threading.Condition()
        self._pid = os.getpid()
        self._is_awake = self._is_writing = self._is_closed = False
        # at once, since no thread can be started when the interpreter goes down, and last words come then
        self._thread = threading.Thread(target=self._run, name="rltelemetry-console", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._is_closed = True

    def put(self, line: str, wake: bool = False) -> None:
        """Append one line; it is written at once with `wake`, else at the next `wake()`. Never waits."""
        if self._is_closed or self._is_inherited():
            return
        with self._state:
            self._lines.append(line)
            self._characters += len(line)
            while len(self._lines) > 1 and self._is_full():
                self._characters -= len(self._lines.popleft())
                self._dropped += 1
            if wake or len(self._lines) % _WAKE_LINES == 0:
                self._wake_locked()

    def set_footer(self, text: str) -> None:
        """Keep one line below all others, for a terminal only; an empty one takes it away. Never waits."""
        if self._is_closed or self._is_inherited():
            return
        with self._state:
            self._footer = text
            self._wake_locked()

    def wake(self) -> None:
        """Have the lines written."""
        if self._lines and not self._is_inherited():
            with self._state:
                self._wake_locked()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the stream has taken every line; False if it did not in time."""
        if self._is_inherited():
            return True
        with self._state:
            self._wake_locked()
            return self._state.wait_for(self._is_idle, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Flush, take no more lines and end the thread; False if the stream did not take everything in time."""
        if self._is_inherited():
            return True
        deadline = time.monotonic() + timeout_s
        self.set_footer("")
        is_flushed = self.flush(timeout_s)
        with self._state:
            self._end_locked()
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return is_flushed

    def _is_inherited(self) -> bool:
        # in a forked child the thread is gone, and another thread of the parent may have held the lock
        return os.getpid() != self._pid

    def _is_full(self) -> bool:
        return len(self._lines) > self._max_lines or self._characters > self._max_characters

    def _is_idle(self) -> bool:
        return self._is_closed or not (self._is_awake or self._is_writing)

    def _wake_locked(self) -> None:
        if not self._is_closed and (self._lines or self._dropped or self._footer != self._shown_footer):
            self._is_awake = True
            self._state.notify_all()

    def _end_locked(self) -> None:
        self._is_closed = True
        self._lines.clear()
        self._characters = self._dropped = 0
        self._state.notify_all()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            text, num_lines = batch
            try:
                self._write(text)
            except OSError as error:  # a full disk, say, may recover
                self._settle(lost=num_lines, is_gone=error.errno in _GONE)
            except Exception:  # a closed stream, or a stand-in that does as it likes: there is nobody to tell
                self._settle(is_gone=True)
            else:
                self._settle()

    def _take(self) -> tuple[str, int] | None:
        """Wait for lines; return some as text, and how many they are with those lost before. None when closed."""
        with self._state:
            while not (self._is_awake or self._is_closed):
                self._state.wait()
            if self._is_closed:
                return None
            num_lines, self._dropped = self._dropped, 0
            batch = [self._describe_dropped(num_lines)] if num_lines else []
            size = 0
            while self._lines and size < _BATCH_CHARACTERS:
                line = self._lines.popleft()
                size += len(line)
                batch.append(line)
                num_lines += 1
            self._characters -= size
            self._is_awake, self._is_writing = bool(self._lines), True
            wipe, self._shown_footer = _WIPE if self._shown_footer else "", self._footer
            # one that reaches the last column would wrap, and could not be wiped
            return wipe + "".join(f"{line}\n" for line in batch) + self._footer[: self._columns() - 1], num_lines

    def _settle(self, lost: int = 0, is_gone: bool = False) -> None:
        with self._state:
            self._is_writing = False
            self._dropped += lost
            if is_gone:
                self._end_locked()
            self._state.notify_all()

    def _write(self, text: str) -> None:
        descriptor = self._descriptor()
        if descriptor is not None:
            encoding = self._stream.encoding or "utf-8"
            _write_all(descriptor, memoryview(text.encode(encoding, "backslashreplace")), lambda: self._is_closed)
            return
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError, AttributeError):  # no terminal, or a stand-in for a stream
            return _COLUMNS

    def _descriptor(self) -> int | None:
        """Return the stream's file descriptor, if writing to it directly is the same as writing to the stream.

        It is better where it can be done: a thread that stalls inside a Python stream holds its lock, which
        deadlocks a forked child and makes the interpreter abort at exit.
        """
        if type(self._stream) is not io.TextIOWrapper or os.name != "posix":
            return None
        return self._stream.fileno()  # ValueError if it is closed


def _write_all(descriptor: int, data: memoryview, is_cancelled: Callable[[], bool]) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody shares this terminal and made it non-blocking
            if is_cancelled():
                raise
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll(_RETRY_MS)
