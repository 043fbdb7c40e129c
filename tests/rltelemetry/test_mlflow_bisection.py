"""Taking apart what is refused as a whole."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.sinks.mlflow.bisection import CONFIRMATIONS, Split, split
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict

GOOD = Outcome(Verdict.DELIVERED)
BAD = Outcome(Verdict.POISON, 400, "bad key")
BROKEN = Outcome(Verdict.RETRY, 500, "internal error")
AWAY = Outcome(Verdict.RETRY, cause="connection refused")


class Server:
    """Stores a piece as a whole, or refuses it as a whole."""

    def __init__(self, judge: Callable[[Sequence[int]], Outcome]) -> None:
        self.stored: set[int] = set()
        self.requests = 0
        self._judge = judge

    async def offer(self, piece: Sequence[int]) -> Outcome:
        self.requests += 1
        outcome = self._judge(piece)
        if outcome.is_delivered:
            self.stored |= set(piece)
        return outcome


def refusing(bad: set[int], outcome: Outcome = BAD) -> Server:
    return Server(lambda piece: outcome if bad & set(piece) else GOOD)


def run(server: Server, items: Sequence[int], refusal: Outcome = BAD) -> Split[int]:
    return asyncio.run(split(items, refusal, server.offer))


@given(st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_refused_items_are_found_and_all_others_are_taken(count: int, bad: set[int]) -> None:
    bad &= set(range(count))
    server = refusing(bad)
    if not bad:
        return
    result = run(server, range(count))
    assert sorted(item for item, _ in result.refused) == sorted(bad)
    assert server.stored == set(range(count)) - bad
    assert result.failure is None


def test_one_bad_item_among_a_thousand_costs_some_twenty_requests() -> None:
    server = refusing({777})
    assert [item for item, _ in run(server, range(1000)).refused] == [777]
    assert server.requests <= 20


def test_reason_is_that_of_the_item_itself() -> None:
    server = Server(lambda piece: Outcome(Verdict.POISON, 400, f"bad {list(piece)}") if 3 in piece else GOOD)
    assert run(server, range(8)).refused == [(3, "bad [3]")]


def test_single_item_is_offered_once_more_before_it_is_blamed() -> None:
    server = refusing({0})
    assert run(server, [0]).refused == [(0, "bad key")]
    assert server.requests == 1


def test_server_error_is_confirmed_before_an_item_is_blamed() -> None:
    server = refusing({2}, BROKEN)
    assert [item for item, _ in run(server, range(4), BROKEN).refused] == [2]
    assert server.requests == len([[0, 1], [2, 3], [2], [3]]) + CONFIRMATIONS


def test_server_error_that_passes_blames_nobody() -> None:
    answers = iter([BROKEN, BROKEN, GOOD, GOOD])
    server = Server(lambda _piece: next(answers))
    assert run(server, [0, 1], BROKEN).refused == []
    assert server.stored == {0, 1}


@pytest.mark.parametrize("failure", [AWAY, Outcome(Verdict.HELD, 401), Outcome(Verdict.RETRY, 503)])
def test_failure_half_way_leaves_the_rest_undecided(failure: Outcome) -> None:
    answers = iter([BAD, GOOD, failure])
    result = run(Server(lambda _piece: next(answers)), range(8))
    assert result.failure == failure
    assert result.refused == []


def test_server_error_is_no_refusal_when_the_data_was_refused() -> None:
    answers = iter([BROKEN])
    assert run(Server(lambda _piece: next(answers)), range(4)).failure == BROKEN
