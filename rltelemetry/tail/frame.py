"""A board as lines of a terminal. Pure.

ppo CartPole-v1 seed 1  RUNNING  http://localhost:5000/#/experiments/0/runs/4f..
1204 points wait on disk. MLflow does not answer: connection refused. The SSH tunnel is down, ...

TRAINER                    latest  trend                        step   steps/s
  Critic Loss              0.0312  ▇▆▅▄▃▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁       204800      3120
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from rltelemetry.labels import Labels
from rltelemetry.redact import clean_text
from rltelemetry.schema import Category
from rltelemetry.sinks.console.render import format_value
from rltelemetry.tail.board import Board, Series

__all__ = ["Size", "frame", "sparkline"]

BARS: Final = "▁▂▃▄▅▆▇█"
ASCII_BARS: Final = "_.-=^*#@"
NOT_A_NUMBER: Final = "x"

NUMBERS: Final = 36
"""Columns of latest value, step, rate and the gaps between them."""

LABEL_PART: Final = 0.35
"""Part of the rest that the label may take; the trend gets what is left."""


class Size(NamedTuple):
    """What fits on the terminal, and whether it can show more than ASCII."""

    columns: int = 80
    lines: int = 24
    is_unicode: bool = True


def sparkline(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Draw values as bars between their least and greatest; many are averaged, what is no number is an `x`."""
    scale = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
    scaled = [value / scale for value in values]  # so that no sum and no difference overflows
    if len(scaled) > width > 0:
        cuts = [place * len(scaled) // width for place in range(width + 1)]
        scaled = [_mean(scaled[start:end]) for start, end in pairwise(cuts)]
    finite = [value for value in scaled if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_bar(value, low, high, bars) for value in scaled[:width])


def frame(board: Board, labels: Labels, size: Size, now_ms: int) -> list[str]:
    """Return the lines that show a board, as many as fit."""
    lines = [_head(board), _delivery(board), *_tables(board, labels, size, now_ms)]
    if len(lines) > size.lines:
        hidden = len(lines) - size.lines + 1
        lines[size.lines - 1 :] = [f"... {hidden} more lines: make the terminal higher, or name the keys you want"]
    return [line[: size.columns] for line in lines]


def _head(board: Board) -> str:
    return "  ".join(clean_text(part) for part in (board.title, board.status, board.url) if part)


def _delivery(board: Board) -> str:
    waiting, parts = board.waiting, []
    if board.owner is not None:
        kinds = {"point": waiting.points, "span": waiting.traces, "other item": waiting.calls}
        held = [f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in kinds.items() if count]
        one = len(held) == 1 and held[0].startswith("1 ")
        parts.append(f"{', '.join(held)} wait{'s' if one else ''} on disk." if held else "Nothing waits on disk.")
    if board.owner is False:
        parts.append("Its process has ended." + (" Send the rest: rltelemetry sync." if waiting else ""))
    if board.problem:
        parts.append(f"MLflow does not answer: {clean_text(board.problem)}")
    return " ".join(parts) or "From MLflow."


def _tables(board: Board, labels: Labels, size: Size, now_ms: int) -> list[str]:
    room = max(0, size.columns - NUMBERS)
    label_width = int(room * LABEL_PART)
    trend_width = room - label_width
    lines: list[str] = []
    for section, keys in _sections(board).items():
        head = f"{'latest':>10}  {'trend':<{trend_width}}  {'step':>11}  {'steps/s':>8}"
        lines += ["", f"{section:<{label_width}} {head}"]
        for key in keys:
            label = labels.label(key.partition("/")[2] or key)
            lines.append(_row(label, board.series[key], label_width, trend_width, size, now_ms))
    return lines if len(lines) > 0 else ["", "No points yet."]


def _sections(board: Board) -> dict[str, list[str]]:
    """The keys by category, in the contract's order; what has another prefix comes behind."""
    order = {category.prefix: number for number, category in enumerate(Category)}
    sections: dict[str, list[str]] = {}
    for key in sorted(board.series, key=lambda key: (order.get(_prefix(key), len(order)), key)):
        sections.setdefault(clean_text(_prefix(key).rstrip("/")).upper() or "OTHER", []).append(key)
    return sections


def _prefix(key: str) -> str:
    return f"{key.partition('/')[0]}/" if "/" in key else ""


def _row(label: str, series: Series, label_width: int, trend_width: int, size: Size, now_ms: int) -> str:
    latest = series.latest
    trend = sparkline(series.values, trend_width, BARS if size.is_unicode else ASCII_BARS)
    shown = f"  {label}"[:label_width]
    rate = format_value(round(series.steps_per_second(now_ms)))
    return (
        f"{shown:<{label_width}} {format_value(latest.value):>10}  {trend:<{trend_width}}  {latest.step:>11}  {rate:>8}"
    )


def _bar(value: float, low: float, high: float, bars: str) -> str:
    if not math.isfinite(value):
        return NOT_A_NUMBER
    if high == low:
        return bars[0]
    return bars[min(len(bars) - 1, int((value - low) / (high - low) * len(bars)))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
