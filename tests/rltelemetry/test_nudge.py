"""The nudge in this process; what becomes of a whole program with it is tested in test_process_life."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rltelemetry.nudge import Nudge

NOBODY = -1


def current_descriptor() -> int:
    current = signal.set_wakeup_fd(NOBODY)
    signal.set_wakeup_fd(current)
    return current


@pytest.fixture
def others() -> Iterator[int]:
    """A descriptor that somebody else in this process wants signals to be written to."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(NOBODY)
    yield writer
    signal.set_wakeup_fd(before)
    os.close(reader)
    os.close(writer)


def num_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_signals_that_nothing_has_brought_to_the_main_thread_are(others: int) -> None:
    """A thread takes them here; as often as they come, and whatever else comes."""
    nudge, loop, is_free, seen = Nudge({signal.SIGUSR1}), asyncio.new_event_loop(), threading.Lock(), []

    def handler(*_: object) -> None:
        seen.append(threading.current_thread())
        is_free.release()

    before = [signal.signal(number, handler) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    nudge.install()
    task = loop.create_task(nudge.run())
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.wait([task]),))
    thread.start()  # it takes what the main thread does not
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    try:
        is_free.acquire()
        for _ in range(3):
            threading.Timer(0.1, os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
            assert is_free.acquire(timeout=10.0)
        assert seen == [threading.main_thread()] * 3
        threading.Timer(0.1, os.kill, args=(os.getpid(), signal.SIGUSR2)).start()
        assert not is_free.acquire(timeout=0.5)  # one that we were not asked to bring
        assert not task.done()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1, signal.SIGUSR2])
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
        nudge.remove()
        for number, action in zip((signal.SIGUSR1, signal.SIGUSR2), before, strict=True):
            signal.signal(number, action)


def test_all_is_given_back(others: int) -> None:
    before = num_descriptors()
    nudge = Nudge({signal.SIGTERM})
    nudge.install()
    assert current_descriptor() != NOBODY
    assert signal.getsignal(signal.SIGURG) is not signal.SIG_DFL
    nudge.remove()
    nudge.remove()
    assert (current_descriptor(), signal.getsignal(signal.SIGURG)) == (NOBODY, signal.SIG_DFL)
    assert num_descriptors() == before


def test_descriptor_of_another_is_left_to_it(others: int) -> None:
    signal.set_wakeup_fd(others)
    nudge = Nudge({signal.SIGTERM})
    nudge.install()
    nudge.remove()
    assert current_descriptor() == others
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_descriptor_that_another_sets_later_stays(others: int) -> None:
    nudge = Nudge({signal.SIGTERM})
    nudge.install()
    signal.set_wakeup_fd(others)
    nudge.remove()
    assert current_descriptor() == others


def test_program_with_a_use_for_the_nudging_signal_keeps_it(others: int) -> None:
    def handler(*_: object) -> None: ...

    signal.signal(signal.SIGURG, handler)
    try:
        nudge = Nudge({signal.SIGTERM})
        nudge.install()
        nudge.remove()
        assert signal.getsignal(signal.SIGURG) is handler
        assert current_descriptor() == NOBODY
    finally:
        signal.signal(signal.SIGURG, signal.SIG_DFL)


def test_nothing_is_taken_without_signals_or_outside_of_the_main_thread(others: int) -> None:
    Nudge(()).install()
    thread = threading.Thread(target=Nudge({signal.SIGTERM}).install)
    thread.start()
    thread.join()
    assert current_descriptor() == NOBODY


def test_process_without_descriptors_goes_without(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    nudge = Nudge({signal.SIGTERM})
    nudge.install()
    assert (current_descriptor(), signal.getsignal(signal.SIGURG)) == (NOBODY, signal.SIG_DFL)
