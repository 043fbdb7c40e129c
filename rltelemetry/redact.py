"""What a text may show when it leaves the process: no secrets, no control characters, no more than fits."""

import base64
import binascii
import re
import time
from collections.abc import Callable
from functools import lru_cache

__all__ = ["MASK", "MAX_TEXT", "clean_text", "cut", "escape_controls", "is_secret_key", "may_count", "redact"]

MASK = "***"

MAX_TEXT = 4096
"""Characters of one text; a 1 MB string would make a 2 MB span."""

_SHORT = 64  # characters of a text that is likely to come again: the name of an event, of a phase
_PIECE = 1 << 14  # characters that are searched in one go; more would hold up the training
_LOOK_AHEAD = 4096  # characters behind a piece that decide whether a secret begins in it
_OVERLAP = 1024  # a secret is looked for so far behind the place where its text is cut
_SCHEMES = r"(?:bearer|basic|digest|negotiate|token)[ \t]+"
_KEY_WORDS = frozenset({"access", "api", "auth", "encryption", "private", "secret", "signing"})  # ... before "key"
_PAIRED = r"\\?[\"']?[ \t]{0,3}[=:][ \t]{0,3}\\?"
_TEXTS = r"(?:[\[(]?b?[\"']|\{[\"'][^\"']{0,80}[\"']:[ ]?[\[({\"'])"  # `tokens=512` and `tokens=[101, 7]` are measures
_NAMES = (
    "(?:passwd|password|passphrase|pwd|secret|credential)s?|token|authorization"
    rf"|(?:{'|'.join(sorted(_KEY_WORDS))})[_-]?(?:keys?|tokens(?={_PAIRED}{_TEXTS}))"
    rf"|tokens(?<![\w-]tokens)(?={_PAIRED}{_TEXTS})"
)
_QUOTED = r"\"[^\"]*+\"?+|'[^']*+'?+"
_LEVELS = 4  # of brackets that are told apart; deeper ones reach to the end of the text


def _bracketed(levels: int) -> str:
    """The pattern of a container as its repr shows it, from the opening bracket to the one that closes it."""
    deeper = _bracketed(levels - 1) if levels else r"[\[({].*+"
    return rf"[\[({{](?:{_QUOTED}|[^\[\](){{}}\"']|{deeper})*+[\])}}]?+"


_VALUE = rf"[bru]{{0,2}}(?:{_QUOTED})|[\w.]*+{_bracketed(_LEVELS)}|[^\s\"'&,;)}}\]]+"
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_PAIR = re.compile(
    rf"((?:{_NAMES}){_PAIRED}|[?&](?:key|sig|signature|auth|code)=)"
    rf"((?:{_SCHEMES})?(?:{_VALUE}))",
    re.IGNORECASE | re.DOTALL,
)
_BEARER = re.compile(r"\b(bearer)[ \t]+[\w.~+/=-]{6,}", re.IGNORECASE)
_BASIC = re.compile(r"\b(basic)[ \t]+([\w+/-]{4,}={0,2})", re.IGNORECASE)
_KNOWN_SHAPES = re.compile(r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|dapi|xox[abp]-|AKIA)[\w.-]{16,}")
_JWT = re.compile(r"\beyJ[\w-]{8,}(\.[\w.-]{16,})?")  # without a dot, too: what was read is not read again
_HINT = re.compile(r"[=:_-]|basic|bearer|dapi|AKIA|eyJ", re.IGNORECASE)  # no secret is recognised without one

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SECRET_WORDS = frozenset(
    {
        *("apikey", "apikeys", "authorization", "credential", "credentials", "passphrase", "passphrases"),
        *("passwd", "passwds", "password", "passwords", "pwd", "pwds", "secret", "secrets"),
    }
)
_SECRET_LAST = frozenset(
    {"token", "authtoken", "authtokens", "accesstoken", "accesstokens", "cookie", "cookies", "pass"}
)
_OF_COUNTS = frozenset(  # ... of tokens, and of what a language model reads and writes
    {
        *("avg", "completion", "count", "generated", "input", "max", "mean", "min", "n", "nb", "new", "num", "number"),
        *("output", "per", "prompt", "special", "stop", "sum", "total"),
    }
)
_HOLDERS = frozenset({"value", "text", "string"})  # ... of a token

# bidirectional overrides and line separators reorder or break a line as surely as C0 and C1 do
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_CONTROLS_BUT_NEWLINE = re.compile(_CONTROLS.pattern.replace(r"\x00-\x1f", r"\x00-\x09\x0b-\x1f"))


def redact(text: str) -> str:
    """Replace what looks like a credential: URL userinfo, `token=...` and its kin, authorization values."""
    if len(text) <= _PIECE and not _HINT.search(text):
        return text
    text = _replace(_USERINFO, lambda _: f"{MASK}@", text)
    text = _replace(_PAIR, lambda found: f"{found[1]}{MASK}", text)
    text = _replace(_BEARER, lambda found: f"{found[1]} {MASK}", text)
    text = _replace(_BASIC, _mask_basic, text)
    text = _replace(_JWT, lambda found: MASK if found[1] else found[0], text)
    return _replace(_KNOWN_SHAPES, lambda _: MASK, text)


@lru_cache(maxsize=4096)
def is_secret_key(name: str) -> bool:
    """Whether a field of this name holds a secret: `api_key`, `dbPassword`, `hf_token`, but not `num_tokens`."""
    words = _words_of(name)
    return _is_strict(words) or (words[-1:] == ["tokens"] and _OF_COUNTS.isdisjoint(words))


@lru_cache(maxsize=4096)
def may_count(name: str) -> bool:
    """Whether a container under this name, which is a secret's, may hold measures: `tokens`, but not `token`."""
    return not _is_strict(_words_of(name))


def _words_of(name: str) -> list[str]:
    words = [word.lower() for word in _WORDS.findall(name[:MAX_TEXT])]
    while len(words) > 1 and words[-1] in _HOLDERS:
        words.pop()
    return words


def _is_strict(words: list[str]) -> bool:
    """Whether there is no other meaning of these words than a secret."""
    is_key = any(
        word in {"key", "keys"} and not _KEY_WORDS.isdisjoint(words[:place]) for place, word in enumerate(words)
    )
    return is_key or not _SECRET_LAST.isdisjoint(words[-1:]) or not _SECRET_WORDS.isdisjoint(words)


def escape_controls(text: str, keep_newlines: bool = False) -> str:
    r"""Make C0, C1, DEL and bidirectional controls visible (`\n`, `\x1b`), and lone surrogates U+FFFD."""
    if text.isprintable():
        return text
    return _replace(_CONTROLS_BUT_NEWLINE if keep_newlines else _CONTROLS, _escape, text)


def cut(text: str, limit: int) -> str:
    """Redact a text and cut it, in this order: half of a secret is no longer recognised, and still half of one."""
    if len(text) <= limit:
        return redact(text)
    return f"{redact(text[: limit + _OVERLAP])[:limit]}... ({len(text) - limit} more characters)"


def clean_text(text: str, limit: int = MAX_TEXT, keep_newlines: bool = False) -> str:
    """Redact, cut and escape a text."""
    if type(text) is str and len(text) <= min(limit, _SHORT) and not keep_newlines:
        return _clean_short(text)
    return escape_controls(cut(text, limit), keep_newlines)


@lru_cache(maxsize=1024)
def _clean_short(text: str) -> str:
    return escape_controls(redact(text))


def _replace(pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str], text: str) -> str:
    """Do what `pattern.sub` does, for a long text in pieces: a search holds the interpreter's lock to its end."""
    if len(text) <= _PIECE:
        return pattern.sub(replacement, text)
    parts: list[str] = []
    start = copied = 0
    while start < len(text):
        end = start + _PIECE + _LOOK_AHEAD
        found = pattern.search(text, start, end)
        if found is None or found.start() >= start + _PIECE:
            start += _PIECE
            time.sleep(0)
            continue
        if found.end() == end:
            found = pattern.match(text, found.start()) or found
        parts += text[copied : found.start()], replacement(found)
        start = copied = found.end()
    return "".join([*parts, text[copied:]])


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
