"""What may leave the process: secrets out of texts, control characters escaped, hostile values made safe.

`freeze` runs in the caller and fixes what may change after the log call; everything else runs in the worker,
before any sink. All of it is total: whatever a value's own code does, a text comes out and nothing is raised.
"""

import base64
import binascii
import re
from collections import deque
from datetime import date, time, timedelta
from enum import Enum
from functools import lru_cache
from itertools import islice
from os import PathLike, fspath
from typing import Any
from uuid import UUID

__all__ = [
    "MASK",
    "MAX_TEXT",
    "Unread",
    "clean_field",
    "clean_text",
    "clean_value",
    "escape_controls",
    "freeze",
    "is_secret_key",
    "redact",
    "safe_text",
]

MASK = "***"

MAX_TEXT = 4096
"""Characters of one text; a 1 MB string would make a 2 MB span."""

_OVERLAP = 1024  # a secret is looked for so far behind the place where its text is cut
_MAX_RENDERED = 1000  # characters of what is rendered in the caller, who waits for it
_MAX_ELEMENT = 80
_MAX_ITEMS = 6
_MAX_DEPTH = 3
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

_SCHEMES = r"(?:bearer|basic|digest|negotiate|token)[ \t]+"
_KEY_WORDS = frozenset({"access", "api", "auth", "encryption", "private", "secret", "signing"})  # ... before "key"
_NAMES = (
    "passwd|password|passphrase|pwd|secret|token|authorization|credentials?"
    rf"|(?:{'|'.join(sorted(_KEY_WORDS))})[_-]?key"
)
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_PAIR = re.compile(
    rf"((?:{_NAMES})\\?[\"']?[ \t]{{0,3}}[=:][ \t]{{0,3}}\\?|[?&](?:key|sig|signature|auth|code)=)"
    rf"((?:{_SCHEMES})?(?:\"[^\"]*\"?|'[^']*'?|[^\s\"'&,;)}}\]]+))",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer)[ \t]+[\w.~+/=-]{6,}", re.IGNORECASE)
_BASIC = re.compile(r"\b(basic)[ \t]+([\w+/-]{4,}={0,2})", re.IGNORECASE)
_KNOWN_SHAPES = re.compile(r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|dapi|xox[abp]-|AKIA|eyJ[\w-]{8,}\.)[\w.-]{16,}")
_HINT = re.compile(r"[=:_-]|basic|bearer|dapi|AKIA|eyJ", re.IGNORECASE)  # no secret is recognised without one

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SECRET_WORDS = frozenset(
    {
        *("apikey", "authorization", "credential", "credentials", "passphrase", "passwd", "password", "passwords"),
        *("pwd", "secret", "secrets"),
    }
)
_SECRET_LAST = frozenset({"token", "authtoken", "accesstoken", "cookie", "pass"})
_HOLDERS = frozenset({"value", "text", "string"})  # ... of a token

# bidirectional overrides and line separators reorder or break a line as surely as C0 and C1 do
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_CONTROLS_BUT_NEWLINE = re.compile(_CONTROLS.pattern.replace(r"\x00-\x1f", r"\x00-\x09\x0b-\x1f"))


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


def redact(text: str) -> str:
    """Replace what looks like a credential: URL userinfo, `token=...` and its kin, authorization values."""
    if not _HINT.search(text):
        return text
    text = _USERINFO.sub(f"{MASK}@", text)
    text = _PAIR.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _BASIC.sub(_mask_basic, text)
    return _KNOWN_SHAPES.sub(MASK, text)


@lru_cache(maxsize=4096)
def is_secret_key(name: str) -> bool:
    """Whether a field of this name holds a secret: `api_key`, `dbPassword`, `hf_token`, but not `num_tokens`."""
    words = [word.lower() for word in _WORDS.findall(name[:MAX_TEXT])]
    while len(words) > 1 and words[-1] in _HOLDERS:
        words.pop()
    if not words:
        return False
    is_key = any(word == "key" and not _KEY_WORDS.isdisjoint(words[:place]) for place, word in enumerate(words))
    return is_key or words[-1] in _SECRET_LAST or not _SECRET_WORDS.isdisjoint(words)


def escape_controls(text: str, keep_newlines: bool = False) -> str:
    r"""Make C0, C1, DEL and bidirectional controls visible (`\n`, `\x1b`), and lone surrogates U+FFFD."""
    if text.isprintable():
        return text
    return (_CONTROLS_BUT_NEWLINE if keep_newlines else _CONTROLS).sub(_escape, text)


def clean_text(text: str, limit: int = MAX_TEXT, keep_newlines: bool = False) -> str:
    """Redact, cut and escape a text."""
    return escape_controls(_cut_redacted(text, limit), keep_newlines)


def safe_text(value: object, limit: int = MAX_TEXT) -> str:
    """Return the clean text of anything: a string's own, else what `freeze` makes of it."""
    frozen = freeze(value)
    if isinstance(frozen, bytes):
        return clean_text(frozen[:limit].decode("utf-8", "backslashreplace"), limit)
    return clean_text(frozen if isinstance(frozen, str) else _describe(frozen), limit)


def clean_field(name: str, value: Any) -> Any:
    """Return what `clean_value` does, but the mask for a text under a secret's name; a number there is a measure."""
    clean = clean_value(value)
    return MASK if isinstance(clean, str) and is_secret_key(name) else clean


def clean_value(value: Any) -> Any:
    """Return a value that every sink can take: bool, int, finite or non-finite float, None or a clean text."""
    kind = type(value)
    if kind is float or kind is bool or value is None:
        return value
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


def _freeze_array(value: Any, shape: tuple[Any, ...]) -> Any:
    if not shape and _device_of(value) == "cpu":
        item = value.item()
        return item if type(item) in _AS_IS else _freeze_other(item)
    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    text = _cut(f"{dtype}[{', '.join(map(str, shape))}]", _MAX_RENDERED)
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
    return _cut(_render(value), _MAX_RENDERED)


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
        texts = [_outline_under(name, item, depth) for name, item in zip([None, *first], first, strict=False)]
    more = ["..."] if len(value) > _MAX_ITEMS else []
    return f"{opening}{', '.join(texts + more)}{closing}"


def _outline_under(name: Any, value: Any, depth: int) -> str:
    """The outline of a value that stands under, or behind, a name; the mask where that is a secret's."""
    is_secret = isinstance(name, str) and len(name) <= _MAX_ELEMENT and is_secret_key(name)
    return MASK if is_secret and isinstance(value, (str, bytes)) else _outline(value, depth - 1)


def _element(value: Any) -> str:
    frozen = freeze(value)
    if type(frozen) is str and isinstance(value, str):
        return repr(_cut_redacted(frozen, _MAX_ELEMENT))
    if isinstance(frozen, bytes):
        return repr(frozen[:_MAX_ELEMENT])
    return _cut(frozen if isinstance(frozen, str) else _describe(frozen), _MAX_ELEMENT)


def _describe(number: object) -> str:
    if isinstance(number, int) and number.bit_length() > _FLOAT_BITS:
        return f"<integer of {number.bit_length()} bits>"
    return repr(number)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def _cut_redacted(text: str, limit: int) -> str:
    """Cut behind the secrets: half of one is no longer recognised, and still half of one."""
    if len(text) <= limit:
        return redact(text)
    return f"{redact(text[: limit + _OVERLAP])[:limit]}... ({len(text) - limit} more characters)"


def _unrepresentable(value: Any) -> str:
    text = f"<unrepresentable {type.__dict__['__name__'].__get__(type(value))}>"
    return Unread(text, "not_convertible") if _is_number(value) else text


def _is_number(value: Any) -> bool:
    try:
        return hasattr(type(value), "__float__")
    except Exception:  # a metaclass may do anything, too
        return False


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return "\N{REPLACEMENT CHARACTER}" if "\ud800" <= char <= "\udfff" else ascii(char)[1:-1]


def _mask_basic(match: re.Match[str]) -> str:
    """Mask only what decodes to `user:password`, so that prose about basic things stays readable."""
    encoded = match[2].rstrip("=")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_" if "-" in encoded else None)
    except (binascii.Error, ValueError):
        return match[0]
    return f"{match[1]} {MASK}" if b":" in decoded else match[0]
