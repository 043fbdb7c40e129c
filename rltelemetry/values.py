"""What a value of a log call becomes: plain numbers and texts that are safe to print, to encode and to send.

`freeze` runs in the caller and fixes what may change after the log call; the rest runs in the worker, before any sink.
All of it is total: whatever a value's own code does, something comes out and nothing is raised.
"""

import re
import traceback
from collections import deque
from datetime import date, time, timedelta
from enum import Enum
from itertools import islice
from os import PathLike, fspath
from typing import Any, Final
from uuid import UUID

from rltelemetry.redact import MASK, MAX_TEXT, clean_text, cut, is_secret_key, may_count

__all__ = [
    "MAX_TRACEBACK",
    "Unread",
    "clean_field",
    "clean_value",
    "freeze",
    "is_plain_number",
    "plain_text",
    "safe_text",
    "traceback_text",
]

MAX_TRACEBACK: Final = 32_768
"""Characters that a traceback may have, more than any other text."""

_MAX_RENDERED = 1000  # characters of what is rendered in the caller, who waits for it
_MAX_ELEMENT = 80
_MAX_ITEMS = 6
_MAX_DEPTH = 3
_INT64 = 2**63
_FLOAT_BITS = 1024  # wider integers are no float, and Python refuses to print the widest

_AS_IS = frozenset({int, float, str, bool, type(None), bytes})
_PRINTED = (date, time, timedelta, UUID)  # their str reads better than their repr
_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
    deque: ("[", "]"),
}
_NUMBERS = re.compile(  # the outline of a container that holds nothing else
    r"[\[({](?:'[^']*': |(?:u?int|b?float|bool)\d*\[|nan|inf|True|False|None|[-+\de.,\[\](){} ])*[\])}]"
)


class Unread(str):
    """A text in place of a number that was not read.

    Attributes:
        refusal: why: `on_device` (reading it would wait for the accelerator), `not_scalar`, `not_convertible`.
    """

    refusal: str

    def __new__(cls, text: str, refusal: str) -> "Unread":
        """Make the text with its reason."""
        self = super().__new__(cls, text)
        self.refusal = refusal
        return self

    def __reduce__(self) -> tuple[type["Unread"], tuple[str, str]]:
        return Unread, (str(self), self.refusal)


def safe_text(value: object, limit: int = MAX_TEXT) -> str:
    """Return the clean text of anything: a string's own, else what `freeze` makes of it."""
    frozen = freeze(value)
    if isinstance(frozen, bytes):
        return clean_text(frozen[:limit].decode("utf-8", "backslashreplace"), limit)
    return clean_text(frozen if isinstance(frozen, str) else _describe(frozen), limit)


def plain_text(value: Any) -> str:
    """Return a string's characters as they are, whatever its class makes of them; of anything else the clean text."""
    return str.__str__(value) if issubclass(type(value), str) else safe_text(value)


def clean_field(name: str, value: Any) -> Any:
    """Return what `clean_value` does, but the mask for anything under a secret's name that is no measure."""
    clean = clean_value(value)
    return MASK if isinstance(clean, str) and is_secret_key(name) and not _is_measure(name, clean) else clean


def is_plain_number(value: Any) -> bool:
    """Whether a value is exactly a float, a truth value, None or an integer of 64 bits: nothing is to be cleaned."""
    kind = type(value)
    return kind is float or value is None or kind is bool or (kind is int and -_INT64 <= value < _INT64)


def clean_value(value: Any) -> Any:
    """Return a value that every sink can take: bool, int, finite or non-finite float, None or a clean text."""
    if is_plain_number(value):
        return value
    if type(value) is str:
        return clean_text(value)
    frozen = freeze(value)
    if isinstance(frozen, (str, bytes)):
        text = safe_text(frozen)
        return Unread(text, frozen.refusal) if isinstance(frozen, Unread) else text
    if type(frozen) is int and frozen.bit_length() > _FLOAT_BITS:
        return Unread(_describe(frozen), "not_convertible")
    return frozen


def freeze(value: Any) -> Any:
    """Fix a value at the time of the log call, without ever waiting for a device.

    Returns:
        Exact int, float, str, bool, None and bytes as they are; scalars of numpy, torch and the like as Python
        numbers; everything else as text: arrays as `float32[64, 4]`, containers as a bounded outline. `Unread`
        text stands for numbers that were not read.
    """
    if type(value) in _AS_IS or type(value) is Unread:
        return value
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and (shape or hasattr(value, "item")):
            return _freeze_array(value, shape)
        return _freeze_other(value)
    except Exception:  # the value's own code runs here; it must not reach the training
        return _unrepresentable(value)


def traceback_text(error: BaseException) -> str:
    """Return an error's traceback as Python prints it; the error's own text may fail."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception:
        return f"<{type(error).__name__}: its text cannot be read>"


def _freeze_array(value: Any, shape: tuple[Any, ...]) -> Any:
    if not shape and _device_of(value) == "cpu":
        item = value.item()
        return item if type(item) in _AS_IS else _freeze_other(item)
    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    text = cut(f"{dtype}[{', '.join(map(str, shape))}]", _MAX_RENDERED)
    if (place := _device_of(value)) != "cpu":
        return Unread(f"<{place} tensor {text}>", "on_device")
    return Unread(text, "not_scalar") if _is_number(value) else text


def _device_of(value: Any) -> str:
    """Return `cpu`, or the name of the device that reading the value would wait for."""
    if getattr(value, "is_cuda", False) is True:
        return "cuda"
    device = getattr(value, "device", None)
    kind = getattr(device, "type", None) or getattr(device, "platform", None)
    return kind if isinstance(kind, str) else "cpu"


def _freeze_other(value: Any) -> Any:
    if isinstance(value, Enum):
        return _freeze_other(value.value) if isinstance(value, (int, float)) else str(value.name)
    if isinstance(value, (int, float, str, bytes)):  # a subclass: its plain value, past its own methods
        return _plain(value)
    if isinstance(value, complex):
        return Unread(repr(value), "not_convertible")
    if isinstance(value, bytearray):
        return bytes(value[:MAX_TEXT])
    if _is_number(value):
        return float(value)
    return cut(_render(value), _MAX_RENDERED)


def _plain(value: int | float | str | bytes) -> Any:
    if isinstance(value, int):
        return value if isinstance(value, bool) else int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return str.__str__(value) if isinstance(value, str) else bytes.__getitem__(value, slice(None))


def _render(value: Any) -> str:
    if isinstance(value, tuple(_BRACKETS)):
        return _outline(value, _MAX_DEPTH)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, PathLike):
        return str(fspath(value))
    return str(value) if isinstance(value, _PRINTED) else repr(value)


def _outline(value: Any, depth: int) -> str:
    """Return a repr whose cost does not depend on the size of what is in it; its depth also ends recursion."""
    kind = next((kind for kind in _BRACKETS if isinstance(value, kind)), None)
    if kind is None:
        return _element(value)
    opening, closing = _BRACKETS[kind]
    if depth == 0:
        return f"{opening}...{closing}"
    if kind is dict:
        texts = [
            f"{_element(key)}: {_outline_under(key, item, depth)}" for key, item in islice(value.items(), _MAX_ITEMS)
        ]
    else:  # ("password", "..."), ["--token", "..."]
        first = list(islice(value, _MAX_ITEMS))
        names = getattr(value, "_fields", None) or [None, *first]
        texts = [_outline_under(name, item, depth) for name, item in zip(names, first, strict=False)]
    more = ["..."] if len(value) > _MAX_ITEMS else []
    return f"{opening}{', '.join(texts + more)}{closing}"


def _outline_under(name: Any, value: Any, depth: int) -> str:
    """The outline of a value that stands under, or behind, a name; the mask where that is a secret's."""
    outline = _outline(value, depth - 1)
    if not isinstance(name, (str, bytes)) or len(name) > _MAX_ELEMENT:
        return outline
    text = safe_text(name)
    if not is_secret_key(text) or _is_measure(text, outline):
        return outline
    frozen = "" if isinstance(value, tuple(_BRACKETS)) else freeze(value)
    return MASK if isinstance(frozen, (str, bytes)) and not isinstance(frozen, Unread) else outline


def _is_measure(name: str, text: str) -> bool:
    """Whether a text under a secret's name stands for a number, or for numbers where the name is one of measures."""
    return isinstance(text, Unread) or (may_count(name) and _NUMBERS.fullmatch(text) is not None)


def _element(value: Any) -> str:
    frozen = freeze(value)
    if type(frozen) is str and isinstance(value, str):
        return repr(cut(frozen, _MAX_ELEMENT))
    if isinstance(frozen, bytes):
        return repr(frozen[:_MAX_ELEMENT])
    return cut(frozen if isinstance(frozen, str) else _describe(frozen), _MAX_ELEMENT)


def _describe(number: object) -> str:
    if isinstance(number, int) and number.bit_length() > _FLOAT_BITS:
        return f"<integer of {number.bit_length()} bits>"
    return repr(number)


def _unrepresentable(value: Any) -> str:
    text = f"<unrepresentable {type.__dict__['__name__'].__get__(type(value))}>"
    return Unread(text, "not_convertible") if _is_number(value) else text


def _is_number(value: Any) -> bool:
    try:
        return hasattr(type(value), "__float__")
    except Exception:  # a metaclass may do anything, too
        return False
