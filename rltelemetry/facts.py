"""What a program says of its run, parameters, tags, artifacts, as texts that MLflow takes; total, like a log call."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from rltelemetry.keys import mlflow_key
from rltelemetry.redact import clean_text, is_secret_key
from rltelemetry.values import clean_field, plain_text, safe_text

__all__ = ["ArtifactName", "Facts", "leads_below", "read_artifact_name", "read_facts", "read_note"]

MAX_DEPTH: Final = 8
"""Of nested mappings; deeper ones are shown as an outline."""

MAX_FACTS: Final = 2000
"""Of one call; more is a mistake that must not fill the disk."""

NOTE_TAG: Final = "mlflow.note.content"
"""MLflow shows it as the run's description."""

MAX_NOTE: Final = 7000
"""Characters; MLflow takes 8000 of a tag."""

SEPARATORS: Final = re.compile(r"[/\\]")

LOST: Final = "?;# \t\r\n"
"""At the end of a path, MLflow loses these: it reads it as an address, and puts that together again."""


class Facts(NamedTuple):
    """Clean names and values, and what could not be read, in words."""

    texts: dict[str, str]
    problem: str = ""


class ArtifactName(NamedTuple):
    """Where an artifact goes, below the run's, and what is wrong with that, in words."""

    path: str
    problem: str = ""


def read_facts(given: Any) -> Facts:
    """Flatten a mapping: nested names are joined by dots, secrets are masked, names are made acceptable."""
    texts: dict[str, str] = {}
    try:
        if not isinstance(given, Mapping):
            return Facts({}, f"got {safe_text(type(given).__name__)}; expected a mapping of names to values")
        _flatten(given, "", MAX_DEPTH, texts, "")
    except Exception as error:  # the given object's own code runs here
        return Facts(texts, f"could not be read to its end: {safe_text(error)}")
    if len(texts) >= MAX_FACTS:
        return Facts(texts, f"has more than {MAX_FACTS} entries; the first are taken")
    return Facts(texts)


def read_note(text: Any) -> Facts:
    """Read a run's description: its lines are kept, secrets are masked."""
    return Facts({NOTE_TAG: clean_text(plain_text(text), MAX_NOTE, keep_newlines=True)})


def read_artifact_name(name: Any, otherwise: str = "") -> ArtifactName:
    """Read an artifact's name; `otherwise` stands in for none, or an empty one."""
    path = ("" if name is None else safe_text(name)) or safe_text(otherwise)
    if leads_below(path):
        return ArtifactName(path)
    rule = "expected a path below the run's artifacts, such as 'plots/returns.svg'"
    return ArtifactName(path, f"got '{path}'; {rule}")


def leads_below(path: str) -> bool:
    """Whether a path leads to a place below its root, however often it is decoded on its way: `%2e%2e` is `..`."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return all(segment.strip(LOST) not in {"", ".", ".."} for segment in SEPARATORS.split(path))


def _flatten(given: Mapping[Any, Any], prefix: str, depth: int, texts: dict[str, str], secret: str) -> None:
    """Put what a mapping holds into `texts`; `secret` is the name of the secret that all of it belongs to."""
    for name, value in given.items():
        if len(texts) >= MAX_FACTS:
            return
        path = f"{prefix}{safe_text(name)}"
        if depth and isinstance(value, Mapping) and value:
            _flatten(value, f"{path}.", depth - 1, texts, secret or (path if is_secret_key(path) else ""))
            continue
        key = mlflow_key("", path)
        while key in texts:
            key += "_"
        texts[key] = str(clean_field(secret or path, value))
