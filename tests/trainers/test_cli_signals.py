import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from trainers.cli.signals import GRACE_S, REPEAT_S, SIGNALS, Interruption, handles_signals


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that would have ended this process."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    return sent


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def exit_code_of(work: Callable[[Interruption], None], interruption: Interruption | None = None) -> object:
    with pytest.raises(SystemExit) as caught, handles_signals(interruption) as active:
        work(active)
    return caught.value.code


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_signal_unwinds_the_block_with_its_code(name: str, code: int) -> None:
    unwound = []

    def work(_: Interruption) -> None:
        try:
            signal.raise_signal(getattr(signal, name))
        finally:
            unwound.append(True)

    assert exit_code_of(work) == code
    assert unwound == [True]


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with handles_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(SystemExit), handles_signals():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_patient_block_sees_the_request_and_ends_by_itself() -> None:
    seen = []
    with handles_signals() as interruption, interruption.patiently():
        signal.raise_signal(signal.SIGTERM)
        seen.append(interruption.exit_code)
    assert seen == [143]


def test_patient_block_that_takes_too_long_is_left_in_the_middle_of_a_wait() -> None:
    start = time.monotonic()

    def work(interruption: Interruption) -> None:
        with interruption.patiently():
            signal.raise_signal(signal.SIGUSR1)
            threading.Event().wait(60.0)

    assert exit_code_of(work, Interruption(patience_s=0.1)) == 138
    assert time.monotonic() - start < 30.0


def test_block_that_ended_in_time_is_not_punished_later() -> None:
    with handles_signals(Interruption(patience_s=0.2)) as interruption:
        with interruption.patiently():
            signal.raise_signal(signal.SIGTERM)
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    assert interruption.exit_code == 143


def wait_for_impatience() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


def test_unhurried_block_is_finished_and_left_behind_its_end() -> None:
    done = []

    def work(interruption: Interruption) -> None:
        with interruption.patiently():
            signal.raise_signal(signal.SIGTERM)
            with interruption.unhurried():
                wait_for_impatience()
                done.append("saved")
            done.append("gone on")

    assert exit_code_of(work, Interruption(patience_s=0.05)) == 143
    assert done == ["saved"]


def test_unhurried_block_within_patience_goes_on() -> None:
    with handles_signals(Interruption(patience_s=1.0)) as interruption, interruption.patiently():
        signal.raise_signal(signal.SIGTERM)
        with interruption.unhurried():
            pass
    assert interruption.exit_code == 143


def test_deliberate_second_signal_ends_an_unhurried_block(deadly: list[int]) -> None:
    clock = Clock()

    def work(interruption: Interruption) -> None:
        with interruption.patiently(), interruption.unhurried():
            signal.raise_signal(signal.SIGTERM)
            wait_for_impatience()
            clock.now += REPEAT_S
            signal.raise_signal(signal.SIGTERM)

    exit_code_of(work, Interruption(patience_s=0.05, monotonic=clock))
    assert deadly == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("first", "second", "after_s", "is_deadly"),
    [
        ("SIGINT", "SIGINT", 0.0, False),
        ("SIGINT", "SIGINT", REPEAT_S, True),
        ("SIGTERM", "SIGTERM", REPEAT_S, True),
        ("SIGTERM", "SIGINT", REPEAT_S, True),
        ("SIGHUP", "SIGTERM", GRACE_S - 1, False),
        ("SIGHUP", "SIGTERM", GRACE_S, True),
    ],
)
def test_second_signal_ends_the_process_unless_it_only_comes_with_the_first(
    first: str, second: str, after_s: float, is_deadly: bool, deadly: list[int]
) -> None:
    clock = Clock()

    def work(_: Interruption) -> None:
        try:
            signal.raise_signal(getattr(signal, first))
        finally:
            clock.now += after_s
            signal.raise_signal(getattr(signal, second))

    exit_code_of(work, Interruption(monotonic=clock))
    assert deadly == ([getattr(signal, second)] if is_deadly else [])


def test_deliberate_second_signal_is_how_the_process_dies() -> None:
    code = (
        "import os, signal, time\n"
        "from trainers.cli.signals import Interruption, handles_signals\n"
        "with handles_signals(Interruption(patience_s=60.0)) as interruption, interruption.patiently():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    time.sleep(0.6)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)
    assert ended.returncode == -signal.SIGINT


def test_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handles_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with handles_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
