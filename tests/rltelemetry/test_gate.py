"""A fork comes only while the loops behind the queue sleep, and is never held up for long."""

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from rltelemetry import gate
from rltelemetry.gate import GatedSelector, hold_gates, release_gates

WAIT_S = 20.0


class Loop:
    """An event loop on a thread of its own that works when it is told to."""

    def __init__(self) -> None:
        self.is_working, self.go_on = threading.Event(), threading.Event()
        self._loop = asyncio.SelectorEventLoop(GatedSelector())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def work(self) -> None:
        def block() -> None:
            self.is_working.set()
            assert self.go_on.wait(WAIT_S)

        self._loop.call_soon_threadsafe(block)
        assert self.is_working.wait(WAIT_S)

    def is_alive(self) -> bool:
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        return answered.wait(WAIT_S)

    def close(self) -> None:
        self.go_on.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_a_fork_waits_for_a_loop_that_works(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "FORK_WAIT_S", WAIT_S)
    loop.work()
    has_held = threading.Event()

    def fork() -> None:
        hold_gates()
        has_held.set()
        release_gates()

    forking = threading.Thread(target=fork)
    forking.start()
    assert not has_held.wait(0.1)
    loop.go_on.set()
    assert has_held.wait(WAIT_S)
    forking.join()
    assert loop.is_alive()


def test_a_loop_does_not_work_while_a_fork_is_under_way(loop: Loop) -> None:
    hold_gates()
    answered = threading.Event()
    loop._loop.call_soon_threadsafe(answered.set)
    assert not answered.wait(0.1)
    release_gates()
    assert answered.wait(WAIT_S)


def test_a_loop_that_hangs_holds_a_fork_up_for_a_bounded_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "FORK_WAIT_S", 0.05)
    loop.work()
    hold_gates()
    release_gates()
    loop.go_on.set()
    assert loop.is_alive()


def test_a_loop_may_fork_itself(loop: Loop) -> None:
    codes: list[int] = []
    forked = threading.Event()

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        forked.set()

    loop._loop.call_soon_threadsafe(fork)
    assert forked.wait(WAIT_S)
    assert codes == [7]
    assert loop.is_alive()


def test_a_forked_child_makes_loops_of_its_own(loop: Loop) -> None:
    loop.work()
    if (pid := os.fork()) == 0:
        try:
            own = asyncio.SelectorEventLoop(GatedSelector())
            own.run_until_complete(asyncio.sleep(0))
            own.close()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
