"""Named channels of events: levels, and from which one each logger's events are wanted, read live."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from rltelemetry.handoff import CELL
from rltelemetry.values import safe_text

__all__ = ["LEVELS", "LEVEL_NAMES", "Channel", "channel", "level_name", "set_thresholds", "threshold_of"]

LEVELS: Final[dict[str, int]] = {
    "debug": 10,
    "info": 20,
    "warning": 30,
    "warn": 30,
    "error": 40,
    "exception": 40,
    "err": 40,
    "critical": 50,
    "fatal": 50,
    "msg": 20,
}
"""structlog's method names and their numeric levels."""

LEVEL_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


def level_name(number: int) -> str:
    """Return the name of a numeric level, rounded down to a named one."""
    return LEVEL_NAMES[min(max(number // 10 * 10, 10), 50)]


class Channel:
    """What a bound logger wraps: a name and the level from which its events are wanted, read live."""

    __slots__ = ("name", "threshold")

    def __init__(self, name: str, threshold: int) -> None:
        self.name = name
        self.threshold = threshold

    def __reduce__(self) -> tuple[Callable[[str], "Channel"], tuple[str]]:
        return channel, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Channel":
        return self

    def __getattr__(self, method: str) -> Callable[..., None]:
        """The stdlib-like methods that structlog's normal path ends in, for a foreign chain on our logger."""
        if method not in LEVELS:
            raise AttributeError(method)

        def show(*args: Any, **fields: Any) -> None:
            if len(args) == 1 and type(args[0]) is str and not fields:  # a renderer's line
                print(args[0], flush=True)
                return
            CELL.fallback(method, self.name, args[0] if args else fields.pop("event", ""), fields)

        return show


_channels: dict[str, Channel] = {}
_threshold_of: Callable[[str], int] = lambda _name: LEVELS["info"]  # noqa: E731


def channel(*names: Any) -> Channel:
    """Return the channel of that name: the first argument of `get_logger`, else the module that first used it."""
    name = safe_text(names[0]) if names else _calling_module()
    if name not in _channels:
        _channels[name] = Channel(name, _threshold_of(name))
    return _channels[name]


def set_thresholds(threshold_of: Callable[[str], int]) -> Callable[[str], int]:
    """Put a new filter in force, for loggers that exist and for those to come; returns the one before."""
    global _threshold_of
    before, _threshold_of = _threshold_of, threshold_of
    for name, known in list(_channels.items()):
        known.threshold = threshold_of(name)
    return before


def threshold_of(name: str) -> int:
    """Return the level from which a logger's events are wanted."""
    return _threshold_of(name)


def _calling_module() -> str:
    """The name of the module that logs: the first on the stack that is neither ours nor structlog's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "?"))
        if name.partition(".")[0] not in {"structlog", "rltelemetry"}:
            return name
        frame = frame.f_back
    return "?"
