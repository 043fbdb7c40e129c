"""The part of MLflow's search language that telemetry uses: comparisons joined by AND; and pages."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from rltelemetry.testing.fake_mlflow.answers import invalid

__all__ = ["Lookup", "matcher", "page"]

Lookup = Callable[[str, str], str | None]
"""Returns an item's value for an entity (`tags`, `attributes` ...) and a key."""

Item = TypeVar("Item")

_AND: Final = re.compile(r"\s+AND\s+", re.IGNORECASE)
_CLAUSE: Final = re.compile(
    r"""^(?:(?P<entity>\w+)\.)?(?:`(?P<ticked>[^`]+)`|"(?P<quoted>[^"]+)"|(?P<plain>[\w.]+))
    \s*(?P<operator>!=|=|\bI?LIKE\b)\s*'(?P<value>[^']*)'$""",
    re.VERBOSE | re.IGNORECASE,
)


def matcher(text: str, entities: dict[str, str]) -> Callable[[Lookup], bool]:
    """Return what tells whether an item matches.

    Args:
        text: the filter; empty matches everything.
        entities: accepted spellings of an entity and what each stands for; `""` is for a key without entity.

    Raises:
        Refused: this is not a filter that MLflow, or this fake, understands.
    """
    clauses = [_clause(part.strip(), entities) for part in _AND.split(text)] if text.strip() else []
    return lambda lookup: all(clause(lookup) for clause in clauses)


def page(items: Sequence[Item], token: str, size: int) -> tuple[Sequence[Item], dict[str, str]]:
    """Cut one page; returns it and what to add to the answer."""
    start = json.loads(base64.b64decode(token))["offset"] if token else 0
    end = start + size
    more = {"next_page_token": base64.b64encode(json.dumps({"offset": end}).encode()).decode()}
    return items[start:end], more if end < len(items) else {}


def _clause(text: str, entities: dict[str, str]) -> Callable[[Lookup], bool]:
    found = _CLAUSE.match(text)
    spelled = (found["entity"] or "").lower() if found else None
    if found is None or spelled not in entities:
        raise invalid(f"Invalid clause(s) in filter string: '{text}'")
    entity, key = entities[spelled], found["ticked"] or found["quoted"] or found["plain"]
    compare = _comparison(found["operator"].upper(), found["value"])

    def holds(lookup: Lookup) -> bool:
        value = lookup(entity, key)
        return value is not None and compare(value)

    return holds


def _comparison(operator: str, wanted: str) -> Callable[[str], Any]:
    if operator == "=":
        return lambda value: value == wanted
    if operator == "!=":
        return lambda value: value != wanted
    pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in wanted)
    flags = re.DOTALL | (re.IGNORECASE if operator == "ILIKE" else 0)
    return lambda value: re.fullmatch(pattern, value, flags)
