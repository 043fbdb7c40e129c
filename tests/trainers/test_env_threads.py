import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from trainers.envs import VectorEnv, make_vector_env
from trainers.envs.threads import NearbyThreads, started_by

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="needs Linux and two cores")


@pytest.fixture(autouse=True)
def stay_free() -> Iterator[None]:
    """A test pins this thread to a core; give it back its freedom."""
    yield
    os.sched_setaffinity(0, CORES)


def make(**how: Any) -> tuple[VectorEnv, set[int]]:
    """Environments, and the threads that they have started."""
    before = set(map(int, os.listdir("/proc/self/task")))  # noqa: PTH208
    env = make_vector_env("CartPole-v1", 4, 1, **how)
    return env, set(map(int, os.listdir("/proc/self/task"))) - before  # noqa: PTH208


def cores_after_a_step(env: VectorEnv, threads: set[int]) -> list[set[int]]:
    env.step(np.zeros(env.num_envs, np.int32))
    return [os.sched_getaffinity(thread) for thread in threads]


def test_single_thread_works_on_the_core_of_who_waits_for_it_wherever_that_goes() -> None:
    env, threads = make()
    assert threads
    with closing(env):
        env.reset()
        for core in (CORES[0], CORES[1], CORES[0]):
            os.sched_setaffinity(0, {core})
            assert cores_after_a_step(env, threads) == [{core}] * len(threads)


@pytest.mark.parametrize("how", [{"num_groups": 2}, {"num_threads": 2}])
def test_threads_that_work_beside_something_else_are_left_where_they_are(how: dict[str, Any]) -> None:
    env, threads = make(**how)
    assert threads
    with closing(env):
        env.reset()
        assert cores_after_a_step(env, threads) == [set(CORES)] * len(threads)


def test_only_native_threads_are_told() -> None:
    is_over = threading.Event()
    thread, ids = started_by(lambda: threading.Thread(target=is_over.wait, daemon=True))
    assert ids == frozenset()
    started, ids = started_by(thread.start)
    is_over.set()
    assert (started, ids) == (None, frozenset())
    env, ids = started_by(lambda: make_vector_env("CartPole-v1", 4, 1))
    with closing(env):
        assert ids


def test_thread_that_has_ended_is_no_trouble() -> None:
    nearby = NearbyThreads(frozenset({2**22 + 1}))  # more than Linux numbers
    nearby.follow()
