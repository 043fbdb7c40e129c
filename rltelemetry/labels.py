"""What a metric is called before a reader's eyes: defaults of the contract, overrides, title case.

Labels live on the console only; wire keys stay the raw names. Overrides come as `key=Label,other=Other Label`.
"""

from collections.abc import Mapping

from rltelemetry.schema import DEFAULT_LABELS

__all__ = ["MAX_LABEL_LENGTH", "Labels", "parse_labels"]

MAX_LABEL_LENGTH = 80
"""A longer label is a mistake, and would push the value off the screen."""

_MAX_CACHED = 4096  # field names may be made of data; the cache must not grow with them
_MAX_PROBLEMS = 20
_SHOWN = 40


def parse_labels(text: str) -> tuple[dict[str, str], list[str]]:
    """Read label overrides; what cannot be read is left out and named.

    Only the first `=` separates, so that a label may hold one: `a=b=c` labels `a` as `b=c`. Later duplicates win.

    Args:
        text: comma-separated `key=Label` pairs; empty ones are skipped.

    Returns:
        The overrides, and one line for each malformed pair (the first 20, then how many more).
    """
    overrides: dict[str, str] = {}
    malformed: list[tuple[int, str]] = []
    for position, part in enumerate(text.split(","), start=1):
        key, _, label = (piece.strip() for piece in part.partition("="))
        if key and label:
            overrides[key] = label
        elif part.strip():
            malformed.append((position, part.strip()))
    return overrides, _problems(malformed)


class Labels:
    """The label of every metric name.

    Args:
        overrides: labels that replace or extend the defaults.
    """

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        self._registry = {**DEFAULT_LABELS, **(overrides or {})}
        self._cache: dict[str, str] = {}

    def label(self, key: str) -> str:
        """Return the label of `key`: override, default, or `some_key` as `Some Key`; printable, never empty."""
        label = self._cache.get(key)
        if label is None:
            label = _printable(str(self._registry.get(key) or _title(key)))
            if len(self._cache) < _MAX_CACHED:
                self._cache[key] = label
        return label


def _title(key: str) -> str:
    # str.title() would turn `2x` into `2X` and `SPS` into `Sps`
    return " ".join(word[0].upper() + word[1:] for word in key.split("_") if word)


def _printable(label: str) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in label[:MAX_LABEL_LENGTH])
    return shown or "?"


def _problems(malformed: list[tuple[int, str]]) -> list[str]:
    lines = [
        f"metric labels, pair {position}: got {_shown(pair)}; expected key=Label. It is ignored."
        for position, pair in malformed[:_MAX_PROBLEMS]
    ]
    if len(malformed) > _MAX_PROBLEMS:
        lines.append(f"metric labels: {len(malformed) - _MAX_PROBLEMS} more malformed pairs are ignored.")
    return lines


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
