"""What the worker does with a snapshot before the sinks see it: join its fields, normalise, make it safe."""

from contextvars import Context
from typing import Any

from rltelemetry.handoff import CONTEXTVAR_PREFIX, Snapshot
from rltelemetry.processors import category_of, normalize_category, sanitize
from rltelemetry.types import Fields, Record

__all__ = ["to_record"]


def to_record(snapshot: Snapshot) -> Record:
    """Process one log call; the event's own fields win over bound ones, and those over context variables."""
    event_dict: Any = {**_contextvars(snapshot.contextvars), **snapshot.bound, **snapshot.fields}
    if "event" in event_dict:  # a field of that name, beside the message
        event_dict["event_"] = event_dict.pop("event")
    for order in ("exc_info", "stack_info"):  # what is left of them is no order that `put` obeys, and no measure
        event_dict.pop(order, None)
    event_dict["event"] = snapshot.event
    fields = sanitize(None, snapshot.level, normalize_category(None, snapshot.level, event_dict))
    return Record(
        time_ns=snapshot.time_ns,
        level=snapshot.level,
        logger=snapshot.logger,
        event=fields.pop("event"),
        category=category_of(fields.pop("category")),
        fields=dict(fields),
        span=snapshot.span,
        console=snapshot.console,
    )


def _contextvars(context: Context) -> Fields:
    """What `structlog.contextvars` had bound in the caller."""
    return {
        variable.name.removeprefix(CONTEXTVAR_PREFIX): value
        for variable, value in context.items()
        if variable.name.startswith(CONTEXTVAR_PREFIX) and value is not Ellipsis
    }
