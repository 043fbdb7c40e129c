"""A fork never falls into a moment in which the worker's loop is at work, and is never kept for long."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rltelemetry import fork_gate
from rltelemetry.fork_gate import GATE, ForkGate
from rltelemetry.forks import watch_forks
from rltelemetry.sinks.mlflow import make_loop

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The worker's kind of loop, on a thread of its own."""
    watch_forks(lambda: None)
    made = make_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(10.0)
    made.close()


def fork(child: Callable[[], bool]) -> bool:
    """Run something in a forked child; says what it returned."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if child() else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_fork_finds_no_lock_that_the_worker_holds_while_it_works(loop: asyncio.AbstractEventLoop) -> None:
    lock = threading.Lock()
    is_working = threading.Event()

    def work() -> None:
        with lock:
            is_working.set()
            time.sleep(0.2)

    loop.call_soon_threadsafe(work)
    assert is_working.wait(10.0)
    assert fork(lambda: lock.acquire(timeout=0.01))


def test_fork_finds_its_moment_beside_a_loop_that_never_rests(loop: asyncio.AbstractEventLoop) -> None:
    lock = threading.Lock()

    def work() -> None:
        with lock:
            time.sleep(0.005)
        loop.call_soon(work)

    loop.call_soon_threadsafe(work)
    for _ in range(10):
        assert fork(lambda: lock.acquire(timeout=0.01))


def test_stuck_worker_delays_a_fork_by_its_bound(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_gate, "MAX_WAIT_S", 0.1)
    release = threading.Event()
    is_working = threading.Event()
    loop.call_soon_threadsafe(lambda: (is_working.set(), release.wait(30.0)))
    assert is_working.wait(10.0)
    start = time.monotonic()
    assert fork(lambda: True)
    assert time.monotonic() - start < 5.0
    release.set()


def test_worker_goes_on_after_the_fork(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(3):
        assert fork(lambda: True)
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "done"), loop).result(10.0) == "done"


def test_child_may_run_a_loop_of_its_own(loop: asyncio.AbstractEventLoop) -> None:
    def child() -> bool:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(asyncio.sleep(0.01, True))

    assert fork(child)


def test_worker_may_fork_itself(loop: asyncio.AbstractEventLoop) -> None:
    async def work() -> bool:
        return fork(lambda: True)

    start = time.monotonic()
    assert asyncio.run_coroutine_threadsafe(work(), loop).result(20.0)
    assert time.monotonic() - start < 5.0


def test_loop_that_has_come_to_rest_leaves_the_gate_open() -> None:
    loop = make_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.sleep(0)))
    thread.start()
    thread.join()
    with pytest.raises(ZeroDivisionError), asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_fail())
    loop.close()
    assert GATE._lock.acquire(timeout=5.0)
    GATE._lock.release()


async def _fail() -> None:
    raise ZeroDivisionError


def test_fork_that_has_given_up_waiting_releases_nothing() -> None:
    ForkGate().after_fork_in_parent()
