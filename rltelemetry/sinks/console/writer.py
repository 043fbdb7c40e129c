"""Lines to a stream that may stall for hours, such as the pty of a sleeping ssh client, without stalling anybody.

Whoever puts a line only appends to a bounded deque; one daemon thread writes. When the deque is full the oldest lines
go, with a count that is told as soon as the stream takes lines again. A stream that is gone ends it in silence.
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
_GONE = frozenset({errno.EBADF, errno.EIO, errno.ENXIO, errno.EPIPE})
_RETRY_S = 0.1


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
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._is_awake = self._is_writing = self._is_closed = False

    def put(self, line: str, wake: bool = False) -> None:
        """Append one line; `wake` has it written at once, else `wake()` does. Never waits for the stream."""
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
        is_flushed = self.flush(timeout_s)
        with self._state:
            self._end_locked()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
        return is_flushed

    def _is_inherited(self) -> bool:
        # in a forked child the thread is gone and another thread of the parent may have held the lock
        return os.getpid() != self._pid

    def _is_full(self) -> bool:
        return len(self._lines) > self._max_lines or self._characters > self._max_characters

    def _is_idle(self) -> bool:
        return self._is_closed or not (self._lines or self._dropped or self._is_writing)

    def _wake_locked(self) -> None:
        if self._is_closed or not (self._lines or self._dropped):
            return
        self._is_awake = True
        if self._thread is None:
            self._start_locked()
        self._state.notify_all()

    def _start_locked(self) -> None:
        thread = threading.Thread(target=self._run, name="rltelemetry-console", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is going down, or the process may have no more threads
            self._end_locked()
            return
        self._thread = thread

    def _end_locked(self) -> None:
        self._is_closed = True
        self._lines.clear()
        self._characters = self._dropped = 0
        self._state.notify_all()

    def _run(self) -> None:
        while (text_and_count := self._take()) is not None:
            text, num_lines = text_and_count
            lost = is_gone = False
            try:
                self._write(text)
            except OSError as error:
                is_gone = error.errno in _GONE
                lost = True
            except Exception:  # a closed stream, or a stand-in that does as it likes: there is nobody to tell
                is_gone = True
            with self._state:
                self._is_writing = False
                if is_gone:
                    self._end_locked()
                elif lost:
                    self._dropped += num_lines
                self._state.notify_all()

    def _take(self) -> tuple[str, int] | None:
        """Wait for lines and return a batch of them with its count; None when closed."""
        with self._state:
            while not (self._is_awake and self._lines):
                if self._is_closed:
                    return None
                self._is_awake = False
                self._state.wait()
            ...
