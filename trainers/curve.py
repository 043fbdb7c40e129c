"""The returns of a run so far, and their picture: a small SVG that any browser and MLflow's artifact page show.

Blue is the mean return of the last training episodes; orange the evaluations, mean and range from the worst episode to
the best one.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final, NamedTuple, Self

from trainers.rollout import EpisodeSummary

__all__ = ["ReturnCurve"]

MAX_POINTS: Final = 400
"""More than the picture has room for."""

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 76, 56
NUM_TICKS: Final = 5
TRAINING, EVALUATION, INK, GRID = "#2272b4", "#e06c00", "#445566", "#e4e9ee"


class Point(NamedTuple):
    """Returns of some episodes at a moment of the training."""

    timesteps: int
    mean: float
    low: float
    high: float


class Series:
    """Points spread evenly over any number of updates: one for every `stride` of them, and the newest.

    When they become too many every second one goes and the stride doubles, so old and new ones stay as far apart.
    """

    def __init__(self, points: Iterable[Point] = (), stride: int = 1) -> None:
        self.points = list(points)
        self._stride = stride
        self._num_since = 0  # points offered since the last one that stays; the newest is on trial if there are any

    def add(self, point: Point) -> None:
        """Take the newest point."""
        if self._num_since:
            self.points.pop()
        self.points.append(point)
        self._num_since = (self._num_since + 1) % self._stride
        if self._num_since == 0 and len(self.points) >= MAX_POINTS - 1:  # leaves room for one on trial
            self.points = [*self.points[:-1:2], point]
            self._stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as JSON can hold it."""
        return {"points": self.points, "stride": self._stride}

    @classmethod
    def restored(cls, state: dict[str, Any], last_timesteps: int) -> Self:
        """Return a series that goes on from there, without what lies behind `last_timesteps`."""
        points = [_point(*values) for values in state["points"]]
        return cls((point for point in points if point.timesteps <= last_timesteps), max(1, int(state["stride"])))


class Axis(NamedTuple):
    """One direction of the picture: values from `start` to `end` lie between two pixels."""

    start: float
    end: float
    first_px: float
    last_px: float

    def px(self, value: float) -> float:
        """Where a value lies."""
        return self.first_px + (value - self.start) / (self.end - self.start) * (self.last_px - self.first_px)

    def ticks(self) -> list[float]:
        """Round values within, about NUM_TICKS."""
        rough = (self.end - self.start) / NUM_TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.start / step)
        return [number * step for number in range(first, math.floor(self.end / step + 1e-9) + 1)]


class ReturnCurve:
    """Collects returns; holds no more than the picture needs, however long the run."""

    def __init__(self) -> None:
        self._training = Series()
        self._evaluations = Series()

    def add_training(self, timesteps: int, episodes: EpisodeSummary) -> None:
        """Take the returns of the last training episodes."""
        _add(self._training, timesteps, episodes)

    def add_evaluation(self, timesteps: int, episodes: EpisodeSummary) -> None:
        """Take those of one evaluation."""
        _add(self._evaluations, timesteps, episodes)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as JSON can hold it."""
        return {"training": self._training.state_dict(), "evaluations": self._evaluations.state_dict()}

    def load_state_dict(self, state: dict[str, Any], last_timesteps: int) -> None:
        """Go on from there, without what lies behind `last_timesteps`: the run does it again.

        Raises:
            ValueError, TypeError, AttributeError, LookupError: the state is something else; the curve is as it was.
        """
        self._training, self._evaluations = (
            Series.restored(state[name], last_timesteps) for name in ("training", "evaluations")
        )

    def picture(self, title: str) -> str:
        """Draw the curve."""
        training, evaluations = self._training.points, self._evaluations.points
        if not training and not evaluations:
            return _document([_text(WIDTH / 2, HEIGHT / 2, "no episode has ended yet", anchor="middle")], title, "")
        across, up = _axes(training, evaluations)
        drawn = [
            *_grid(across, up),
            *_ranges(evaluations, across, up),
            _line(training, across, up, TRAINING),
            _line(evaluations, across, up, EVALUATION),
            *(f'<circle cx="{x}" cy="{y}" r="3" fill="{EVALUATION}"/>' for x, y in _places(evaluations, across, up)),
        ]
        return _document(drawn, title, _summary(training, evaluations))


def _point(timesteps: int, *returns: float) -> Point:
    if not all(map(math.isfinite, (timesteps, *returns))):
        raise ValueError("a point that is not finite")
    return Point(timesteps, *returns)


def _add(series: Series, timesteps: int, episodes: EpisodeSummary) -> None:
    mean, low, high = episodes.mean_return, episodes.min_return, episodes.max_return
    if mean is not None and low is not None and high is not None and math.isfinite(mean):
        series.add(Point(timesteps, mean, low, high))


def _axes(training: Sequence[Point], evaluations: Sequence[Point]) -> tuple[Axis, Axis]:
    last = max(point.timesteps for point in (*training, *evaluations))
    low = min([*(point.mean for point in training), *(point.low for point in evaluations)])
    high = max([*(point.mean for point in training), *(point.high for point in evaluations)])
    room = 0.05 * (high - low) or 1.0
    return Axis(0, max(last, 1), LEFT, WIDTH - RIGHT), Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)


def _summary(training: Sequence[Point], evaluations: Sequence[Point]) -> str:
    last = (evaluations or training)[-1]
    what = "last evaluation" if evaluations else "last training episodes"
    return f"{what}: mean return {last.mean:.4g} ({last.low:.4g} to {last.high:.4g}) after {last.timesteps:,} timesteps"


def _places(points: Iterable[Point], across: Axis, up: Axis) -> list[tuple[str, str]]:
    return [(f"{across.px(point.timesteps):.1f}", f"{up.px(point.mean):.1f}") for point in points]


def _line(points: Sequence[Point], across: Axis, up: Axis, colour: str) -> str:
    places = " ".join(f"{x},{y}" for x, y in _places(points, across, up))
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'


def _ranges(points: Sequence[Point], across: Axis, up: Axis) -> list[str]:
    """The band from the worst episodes to the best ones."""
    if not points:
        return []
    above = [f"{across.px(point.timesteps):.1f},{up.px(point.high):.1f}" for point in points]
    below = [f"{across.px(point.timesteps):.1f},{up.px(point.low):.1f}" for point in reversed(points)]
    return [f'<polygon points="{" ".join(above + below)}" fill="{EVALUATION}" fill-opacity="0.15"/>']


def _grid(across: Axis, up: Axis) -> list[str]:
    drawn = []
    for value in up.ticks():
        y = f"{up.px(value):.1f}"
        drawn.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        drawn.append(_text(LEFT - 8, up.px(value) + 4, f"{value:g}", anchor="end"))
    drawn += [_text(across.px(value), HEIGHT - BOTTOM + 20, _short(value), anchor="middle") for value in across.ticks()]
    drawn.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "timesteps", anchor="middle"))
    return drawn


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _document(drawn: Iterable[str], title: str, summary: str) -> str:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 28, title, size=17, colour="#11171c"),
        _text(LEFT, 48, summary),
        _text(WIDTH - RIGHT, 66, "evaluation", anchor="end", colour=EVALUATION),
        _text(WIDTH - RIGHT - 76, 66, "training", anchor="end", colour=TRAINING),
    ]
    return "\n".join([*head, *drawn, "</svg>\n"])
