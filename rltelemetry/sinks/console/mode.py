"""What the console shows on a given stream: dashboard or JSON, with colour or without.

`auto` is a dashboard on a terminal and JSON lines otherwise. NO_COLOR (https://no-color.org) and FORCE_COLOR
(https://force-color.org) count when they are set and not empty. FORCE_COLOR says that a reader with a terminal
sits behind the pipe (a CI log, a pager), so it also makes `auto` a dashboard; NO_COLOR wins over it for the colours.
"""

from collections.abc import Mapping
from typing import Literal, TextIO

__all__ = ["Mode", "can_redraw", "resolve_mode"]

Mode = Literal["dashboard", "json", "off"]


def resolve_mode(setting: str, stream: TextIO | None, environ: Mapping[str, str]) -> tuple[Mode, bool]:
    """Choose how to write on `stream`.

    Args:
        setting: `auto`, `dashboard`, `json` or `off`; anything else counts as `auto`.
        stream: where the lines go; None (a process without stderr) is `off`.
        environ: the environment.

    Returns:
        The mode, and whether to colour.
    """
    if stream is None or setting == "off":
        return "off", False
    is_terminal = _is_terminal(stream)
    is_forced = environ.get("FORCE_COLOR", "") not in {"", "0", "false"}
    if setting == "json" or (setting != "dashboard" and not is_terminal and not is_forced):
        return "json", False
    is_plain = bool(environ.get("NO_COLOR")) or environ.get("FORCE_COLOR") in {"0", "false"}
    is_capable = is_forced or (is_terminal and environ.get("TERM") != "dumb")
    return "dashboard", is_capable and not is_plain


def can_redraw(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Return whether a line on `stream` can be wiped and written again."""
    return stream is not None and _is_terminal(stream) and environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, OSError, ValueError):  # a stand-in for a stream, or a closed one
        return False
