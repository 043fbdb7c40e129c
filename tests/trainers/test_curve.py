"""The picture of the returns: what it shows, that any run fits on it, and that it goes on after a resume."""

import json
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from trainers.curve import MAX_POINTS, Axis, ReturnCurve
from trainers.rollout import EpisodeSummary

NONE = EpisodeSummary(0, None, None, None, None, None, None)


def summary(mean: float, low: float | None = None, high: float | None = None) -> EpisodeSummary:
    return EpisodeSummary(20, mean, mean if high is None else high, mean if low is None else low, 1.0, 1.0, 1.0)


def drawn(curve: ReturnCurve, kind: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(curve.picture("PPO on X"))
    return root.findall(f".//{{http://www.w3.org/2000/svg}}{kind}")


def texts(curve: ReturnCurve) -> list[str]:
    return [str(element.text) for element in drawn(curve, "text")]


def places(curve: ReturnCurve, index: int) -> list[tuple[float, float]]:
    points = drawn(curve, "polyline")[index].get("points", "")
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", points)]


def test_better_is_higher_and_later_is_further_right() -> None:
    curve = ReturnCurve()
    for timesteps, mean in ((1000, 0.0), (2000, 50.0), (4000, 100.0)):
        curve.add_training(timesteps, summary(mean))
    (x1, y1), (x2, y2), (x3, y3) = places(curve, 0)
    assert x1 < x2 < x3
    assert x3 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y1 > y2 > y3
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)


def test_last_evaluation_is_told_with_its_range() -> None:
    curve = ReturnCurve()
    curve.add_training(163840, summary(480.0))
    curve.add_evaluation(81920, summary(100.0))
    curve.add_evaluation(163840, summary(499.5, 490.0, 500.0))
    assert "last evaluation: mean return 499.5 (490 to 500) after 163,840 timesteps" in texts(curve)
    assert len(drawn(curve, "circle")) == len(places(curve, 1)) == 2


def test_run_without_an_episode_has_a_picture_that_says_so() -> None:
    curve = ReturnCurve()
    curve.add_training(100, NONE)
    curve.add_training(200, summary(math.nan))
    assert "no episode has ended yet" in texts(curve)


@pytest.mark.parametrize("mean", [0.0, -1e9, 1e-12, 3.5])
def test_curve_that_never_moves_fits(mean: float) -> None:
    curve = ReturnCurve()
    curve.add_training(0, summary(mean))
    curve.add_training(5, summary(mean))
    assert all(0 < x < 720 and 0 < y < 420 for x, y in places(curve, 0))


def test_name_of_a_task_cannot_break_the_picture() -> None:
    curve = ReturnCurve()
    curve.add_training(1, summary(1.0))
    root = ElementTree.fromstring(curve.picture('<script>alert("x")</script> & more'))
    assert root.findall(".//{http://www.w3.org/2000/svg}script") == []


def kept(curve: ReturnCurve, what: str = "training") -> list[int]:
    return [point.timesteps for point in curve.state_dict()[what]["points"]]


@pytest.mark.parametrize("total", [399, 400, 1000, 10_000])
def test_long_run_stays_small_and_its_points_evenly_spread(total: int) -> None:
    curve = ReturnCurve()
    for update in range(total):
        curve.add_training(update, summary(float(update)))
    timesteps = kept(curve)
    assert len(timesteps) <= MAX_POINTS
    assert (timesteps[0], timesteps[-1]) == (0, total - 1)
    assert max(after - before for before, after in pairwise(timesteps)) <= 2 * total / (MAX_POINTS - 2)
    assert len(curve.picture("x")) < 20_000


def test_newest_returns_are_in_the_picture_at_once() -> None:
    curve = ReturnCurve()
    for update in range(1000):
        curve.add_training(update, summary(float(update)))
        assert kept(curve)[-1] == update


def test_long_run_stays_evenly_spread_however_often_it_is_resumed() -> None:
    curve = ReturnCurve()
    for update in range(10_000):
        if update % 101 == 0:
            state, curve = curve.state_dict(), ReturnCurve()
            curve.load_state_dict(json.loads(json.dumps(state)), update)
        curve.add_training(update, summary(float(update)))
    timesteps = kept(curve)
    assert len(timesteps) <= MAX_POINTS
    assert max(after - before for before, after in pairwise(timesteps)) <= 4 * 10_000 / MAX_POINTS


def test_resumed_run_draws_the_whole_curve_without_what_it_does_again() -> None:
    before = ReturnCurve()
    for timesteps in (100, 200, 300):
        before.add_training(timesteps, summary(1.0))
        before.add_evaluation(timesteps, summary(2.0))
    after = ReturnCurve()
    after.load_state_dict(json.loads(json.dumps(before.state_dict())), 200)
    assert kept(after) == [100, 200]
    assert kept(after, "evaluations") == [100, 200]


def test_ticks_are_round_and_within() -> None:
    assert Axis(0, 163840, 0, 1).ticks() == [0, 50_000, 100_000, 150_000]
    assert Axis(-21.5, 20.0, 0, 1).ticks() == [-20, -10, 0, 10, 20]
