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
    nudge, loop, is_free, seen = Nudge(), asyncio.new_event_loop(), threading.Lock(), []

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
    nudge = Nudge()
    before = num_descriptors()
    for _ in range(3):
        nudge.install()
        assert current_descriptor() != NOBODY
        assert signal.getsignal(signal.SIGURG) is not signal.SIG_DFL
        nudge.remove()
        nudge.remove()
        assert (current_descriptor(), signal.getsignal(signal.SIGURG)) == (NOBODY, signal.SIG_DFL)
    assert num_descriptors() == before + 2, "the pipe, once"


def test_descriptor_of_another_is_left_to_it(others: int) -> None:
    signal.set_wakeup_fd(others)
    nudge = Nudge()
    nudge.install()
    nudge.remove()
    assert current_descriptor() == others
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_descriptor_that_another_sets_later_stays(others: int) -> None:
    nudge = Nudge()
    nudge.install()
    signal.set_wakeup_fd(others)
    nudge.remove()
    assert current_descriptor() == others


def test_program_with_a_use_for_the_nudging_signal_keeps_it(others: int) -> None:
    def handler(*_: object) -> None: ...

    signal.signal(signal.SIGURG, handler)
    try:
        nudge = Nudge()
        nudge.install()
        nudge.remove()
        assert signal.getsignal(signal.SIGURG) is handler
        assert current_descriptor() == NOBODY
    finally:
        signal.signal(signal.SIGURG, signal.SIG_DFL)


def test_nothing_is_taken_outside_of_the_main_thread(others: int) -> None:
    thread = threading.Thread(target=Nudge().install)
    thread.start()
    thread.join()
    assert current_descriptor() == NOBODY


def test_what_was_left_behind_on_another_thread_is_taken_up_again(others: int) -> None:
    nudge = Nudge()
    nudge.install()
    ours = current_descriptor()
    thread = threading.Thread(target=nudge.remove)
    thread.start()
    thread.join()
    assert current_descriptor() == ours
    nudge.install()
    assert current_descriptor() == ours
    nudge.remove()
    assert current_descriptor() == NOBODY


def test_descriptor_that_is_put_back_later_is_still_a_pipe(others: int) -> None:
    """As an event loop does that began while the pipeline was open, and ends after it."""
    nudge = Nudge()
    nudge.install()
    before = signal.set_wakeup_fd(others)
    nudge.remove()
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
    nudge.install()
    assert current_descriptor() == before
    nudge.remove()


def test_descriptor_of_another_that_is_closed_is_no_trouble(others: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    os.close(reader)
    os.close(writer)
    nudge = Nudge()
    nudge.install()
    nudge.remove()
    signal.set_wakeup_fd(NOBODY)


def test_pipe_that_a_daemon_has_closed_is_made_anew(others: int) -> None:
    nudge = Nudge()
    nudge.install()
    pipe = nudge._pipe
    nudge.remove()
    assert pipe is not None
    for descriptor in pipe:
        os.close(descriptor)
    with Path(os.devnull).open("wb") as first, Path(os.devnull).open("wb") as second:
        assert {first.fileno(), second.fileno()} == set(pipe)
        nudge.install()
        assert current_descriptor() not in {*pipe, NOBODY}
        nudge.remove()


def test_process_without_descriptors_goes_without(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    nudge = Nudge()
    nudge.install()
    assert (current_descriptor(), signal.getsignal(signal.SIGURG)) == (NOBODY, signal.SIG_DFL)
