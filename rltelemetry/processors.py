"""Plain structlog processors: category, sanitising. They stand in the worker's chain, or in anybody's own.

Each takes `(logger, method_name, event_dict)` and returns the event dictionary; none of them ever raises.
"""

from typing import Any

from structlog.typing import EventDict, WrappedLogger

from rltelemetry.redact import clean_text
from rltelemetry.schema import CATEGORY_ALIASES, CATEGORY_FIELDS, MAX_KEY_LENGTH, Category
from rltelemetry.values import MAX_TRACEBACK, clean_field, is_plain_number, safe_text

__all__ = ["CONTROL_FIELDS", "TRACEBACK_FIELDS", "category_of", "normalize_category", "sanitize"]

CONTROL_FIELDS: frozenset[str] = frozenset({"_from_structlog", "_record", "exc_info", "positional_args", "stack_info"})
"""Not data: orders for structlog's later processors, which need them untouched."""

TRACEBACK_FIELDS: tuple[str, ...] = ("exception", "stack")
"""Rendered tracebacks: the only texts that keep their newlines, and more characters than others."""


def category_of(value: object) -> Category:
    """Return the category that a field's value names; MISC if it names none."""
    if isinstance(value, Category):
        return value
    name = value if isinstance(value, str) else safe_text(value)
    return CATEGORY_ALIASES.get(name.strip().upper(), Category.MISC)


def normalize_category(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Set `category` to the canonical name; an alias field that served for it goes."""
    for field in CATEGORY_FIELDS:
        value = event_dict.get(field)
        if value is not None:
            break
    else:
        field, value = "category", Category.MISC
    if field != "category":
        del event_dict[field]
    event_dict["category"] = category_of(value).value
    return event_dict


def sanitize(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Make every key and value safe to print, to encode and to send: see `redact`.

    A text under a secret's name is masked; a number there is a measure (`loss_per_token`) and stays.
    """
    clean: dict[str, Any] = {}
    for key, value in event_dict.items():
        is_clean = type(key) is str and len(key) <= MAX_KEY_LENGTH and key.isidentifier()
        if is_clean and (type(value) is float or is_plain_number(value)) and key != "event":  # most fields
            clean[key] = value
            continue
        name = key if is_clean else _clean_key(key, clean, event_dict)
        clean[name] = value if name in CONTROL_FIELDS else _clean_field(name, value)
    return clean


def _clean_key(key: object, clean: dict[str, Any], event_dict: EventDict) -> str:
    name = safe_text(key, MAX_KEY_LENGTH) or "_"
    while name in clean or (name != key and name in event_dict):
        name += "_"
    return name


def _clean_field(name: str, value: Any) -> Any:
    if name in TRACEBACK_FIELDS and isinstance(value, str):
        return clean_text(value, MAX_TRACEBACK, keep_newlines=True)
    if name == "event":
        return safe_text(value)
    return clean_field(name, value)
