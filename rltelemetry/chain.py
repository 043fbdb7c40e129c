"""What the worker does with a snapshot before the sinks see it: join its fields, normalise the category, make it safe."""

from contextvars import Context
from typing import Any, Final

from rltelemetry.handoff import Snapshot
from rltelemetry.processors import normalize_category, sanitize
from rltelemetry.redact import freeze
from rltelemetry.schema import Category
from rltelemetry.types import Fields, Record

__all__ = ["to_record"]

CONTEXTVAR_PREFIX: Final = "structlog_"
"""structlog keeps each bound context variable under its key with this prefix."""


def to_record(snapshot: Snapshot) -> Record:
    """Process one log call; the event's own fields win over bound ones, those over context variables."""
    fields: Fields = {**_contextvars(snapshot.contextvars), **snapshot.bound, **snapshot.fields}
    fields.pop("event", None) if fields.get("event") is None else None
    own_event_field = fields.pop("event", _ABSENT)
    if own_event_field is not _ABSENT:
        fields["event_"] = own_event_field
    event_dict: Any = {"event": snapshot.event, **fields}
    event_dict = sanitize(None, snapshot.level, normalize_category(None, snapshot.level, event_dict))
    event = event_dict.pop("event")
    category = Category(event_dict.pop("category", Category.MISC.value))
    return Record(
        time_ns=snapshot.time_ns,
        level=snapshot.level,
        logger=snapshot.logger,
        event=event,
        category=category,
        fields=event_dict,
        span=snapshot.span,
        console=snapshot.console,
    )


def _contextvars(context: Context) -> Fields:
    """What `structlog.contextvars` had bound in the caller; the values may be anything."""
    return {
        variable.name.removeprefix(CONTEXTVAR_PREFIX): freeze(value)
        for variable, value in context.items()
        if variable.name.startswith(CONTEXTVAR_PREFIX) and value is not Ellipsis
    }


_ABSENT: Final = object()
