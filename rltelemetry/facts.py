"""What a program says of its run, parameters and tags, as texts that MLflow takes; total, like a log call."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rltelemetry.keys import mlflow_key
from rltelemetry.redact import clean_text
from rltelemetry.values import clean_field, plain_text, safe_text

__all__ = ["Facts", "read_facts", "read_note"]

MAX_DEPTH: Final = 8
"""Of nested mappings; deeper ones are shown as an outline."""

MAX_FACTS: Final = 2000
"""Of one call; more is a mistake that must not fill the disk."""

NOTE_TAG: Final = "mlflow.note.content"
"""MLflow shows it as the run's description."""

MAX_NOTE: Final = 7000
"""Characters; MLflow takes 8000 of a tag."""


class Facts(NamedTuple):
    """Clean names and values, and what could not be read, in words."""

    texts: dict[str, str]
    problem: str = ""


def read_facts(given: Any) -> Facts:
    """Flatten a mapping: nested names are joined by dots, secrets are masked, names are made acceptable."""
    texts: dict[str, str] = {}
    try:
        if not isinstance(given, Mapping):
            return Facts({}, f"got {safe_text(type(given).__name__)}; expected a mapping of names to values")
        _flatten(given, "", MAX_DEPTH, texts)
    except Exception as error:  # the given object's own code runs here
        return Facts(texts, f"could not be read to its end: {safe_text(error)}")
    if len(texts) >= MAX_FACTS:
        return Facts(texts, f"has more than {MAX_FACTS} entries; the first are taken")
    return Facts(texts)


def read_note(text: Any) -> Facts:
    """Read a run's description: its lines are kept, secrets are masked."""
    return Facts({NOTE_TAG: clean_text(plain_text(text), MAX_NOTE, keep_newlines=True)})


def _flatten(given: Mapping[Any, Any], prefix: str, depth: int, texts: dict[str, str]) -> None:
    for name, value in given.items():
        if len(texts) >= MAX_FACTS:
            return
        path = f"{prefix}{safe_text(name)}"
        if depth and isinstance(value, Mapping) and value:
            _flatten(value, f"{path}.", depth - 1, texts)
            continue
        key = mlflow_key("", path)
        while key in texts:
            key += "_"
        texts[key] = str(clean_field(path, value))
