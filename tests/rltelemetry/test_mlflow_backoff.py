"""When something is tried again, and how long an answer is waited for."""

import random

import pytest

from rltelemetry.sinks.mlflow.backoff import (
    HELD_FLOOR_S,
    HELD_S,
    MAX_BACKOFF_S,
    MAX_TIMEOUT_S,
    MIN_BACKOFF_S,
    MIN_TIMEOUT_S,
    Breaker,
    Patience,
)
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.testing import FakeClock

DOWN = Outcome(Verdict.RETRY, cause="connection refused")
HELD = Outcome(Verdict.HELD, 401)


class Longest(random.Random):
    """Always draws the upper end."""

    def uniform(self, _low: float, high: float) -> float:
        return high


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(3, clock, Longest())


def pauses(breaker: Breaker, clock: FakeClock, outcome: Outcome, count: int) -> list[float]:
    found = []
    for _ in range(count):
        breaker.fail(outcome)
        found.append(breaker.next_try_at - clock.monotonic())
    return found


def test_new_breaker_lets_everything_through(breaker: Breaker) -> None:
    assert breaker.is_due()
    assert not breaker.is_open


def test_pause_doubles_up_to_its_cap(breaker: Breaker, clock: FakeClock) -> None:
    assert pauses(breaker, clock, DOWN, 7) == [0.5, 1.0, 2.0, 4.0, 8.0, MAX_BACKOFF_S, MAX_BACKOFF_S]


def test_cap_holds_after_any_number_of_failures(clock: FakeClock) -> None:
    breaker = Breaker(3, clock, Longest(), max_backoff_s=5.0)
    assert max(pauses(breaker, clock, DOWN, 2000)) == 5.0


def test_jitter_is_full_but_never_spins(clock: FakeClock) -> None:
    drawn = pauses(Breaker(3, clock, random.Random(1)), clock, DOWN, 300)[10:]
    assert min(drawn) == pytest.approx(MIN_BACKOFF_S)
    assert min(drawn) < 1.0
    assert max(drawn) > 9.0


def test_breaker_opens_after_its_attempts_and_closes_with_one_success(breaker: Breaker) -> None:
    states = []
    for _ in range(3):
        breaker.fail(DOWN)
        states.append(breaker.is_open)
    assert states == [False, False, True]
    breaker.succeed()
    assert not breaker.is_open
    assert breaker.is_due()


def test_it_is_due_when_the_pause_is_over(breaker: Breaker, clock: FakeClock) -> None:
    breaker.fail(DOWN)
    clock.advance(0.49)
    assert not breaker.is_due()
    clock.advance(0.02)
    assert breaker.is_due()


def test_wall_clock_has_no_say(breaker: Breaker, clock: FakeClock) -> None:
    breaker.fail(DOWN)
    clock.jump(7200)
    assert not breaker.is_due()
    clock.jump(-14_400)
    clock.advance(0.51)
    assert breaker.is_due()


def test_servers_wish_is_a_floor_that_nobody_lifts_but_a_success(breaker: Breaker, clock: FakeClock) -> None:
    breaker.fail(Outcome(Verdict.RETRY, 429, retry_after_s=5.0))
    breaker.forgive()
    clock.advance(4.99)
    assert not breaker.is_due()
    clock.advance(0.02)
    assert breaker.is_due()


def test_forgiving_cuts_the_own_pause_short(breaker: Breaker) -> None:
    pauses_before = breaker.failures
    breaker.fail(DOWN)
    breaker.forgive()
    assert breaker.is_due()
    assert breaker.failures == pauses_before + 1


def test_held_data_is_tried_rarely_also_when_somebody_asks(breaker: Breaker, clock: FakeClock) -> None:
    breaker.fail(HELD)
    assert breaker.is_held
    assert breaker.next_try_at - clock.monotonic() == HELD_S
    breaker.forgive()
    assert breaker.next_try_at - clock.monotonic() == HELD_FLOOR_S
    breaker.succeed()
    assert not breaker.is_held


def test_patience_grows_with_each_time_out_up_to_its_cap_and_starts_anew(clock: FakeClock) -> None:
    patience = Patience(3.0, clock)
    found = [patience.left_s()]
    for _ in range(3):
        patience.grow()
        found.append(patience.left_s())
    assert found == pytest.approx([3.0, 10.0, 30.0, MAX_TIMEOUT_S])
    patience.reset()
    assert patience.left_s() == 3.0


def test_patience_ends_at_the_deadline(clock: FakeClock) -> None:
    patience = Patience(3.0, clock)
    patience.deadline = clock.monotonic() + 1.0
    assert patience.left_s() == 1.0
    clock.advance(2.0)
    assert patience.left_s() == MIN_TIMEOUT_S


def test_patience_that_was_asked_for_is_not_shortened_by_growing(clock: FakeClock) -> None:
    patience = Patience(120.0, clock)
    patience.grow()
    assert patience.left_s() == 120.0
