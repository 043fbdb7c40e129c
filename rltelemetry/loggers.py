"""The structlog logger of this house: total, cheap, and obedient to a second `configure`.

Stock structlog raises into the caller on bad %-arguments and on fields named `event`, `self` or `method_name`, and
costs twice as much. Here the methods are positional-only, and a record goes straight to the hand-off. While the last
processor is not ours (`capture_logs`, a test's own chain), calls take structlog's normal path.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from time import time_ns
from typing import Any, Final, Self

import structlog
from opentelemetry.trace import INVALID_SPAN
from structlog import BoundLoggerBase, DropEvent
from structlog.typing import EventDict, Processor, WrappedLogger

from rltelemetry.channels import LEVEL_NAMES, LEVELS, Channel, channel, level_name, threshold_of
from rltelemetry.current_span import NO_CONTEXT, SPAN_KEY, read_span_context
from rltelemetry.handoff import BOUND_VARIABLES, CELL, contextvars_may_change
from rltelemetry.values import freeze, safe_text

__all__ = ["HANDOFF", "BoundLogger", "Tee", "assemble", "take_over"]

LAZY_PROXY: Final = type(structlog.get_logger())
"""What structlog's loggers are until their first event, and stay where a module keeps them."""


def take_over(chain: list[Processor]) -> None:
    """Make every structlog logger ours; `chain` is changed in place, since loggers bound before hold on to it."""
    chain[:] = [HANDOFF]
    structlog.configure(
        processors=chain,
        wrapper_class=assemble,  # type: ignore[arg-type]  # structlog calls it, and asks for no more
        context_class=dict,
        logger_factory=channel,
        cache_logger_on_first_use=True,
    )


class _ToHandoff:
    """The whole chain of our configuration: the mark by which a logger knows that its events go straight through."""

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        """Hand an event over that came on structlog's normal path (a logger bound before `configure`)."""
        _hand_over(logger, method_name, event_dict, console=True)
        raise DropEvent

    def __reduce__(self) -> str:
        return "HANDOFF"


class Tee:
    """A processor for a structlog chain of one's own: hands a copy of the event over and passes the event on.

    Put it before the renderer; the chain's own renderer shows the event, so our console does not.
    """

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        """Hand a copy over; never raises."""
        _hand_over(logger, method_name, event_dict, console=False)
        return event_dict


HANDOFF: Final = _ToHandoff()


def _hand_over(logger: WrappedLogger, method_name: str, event_dict: EventDict, *, console: bool) -> None:
    try:
        name = next((name for name in (event_dict.get("logger"), getattr(logger, "name", "")) if type(name) is str), "")
        level = LEVELS.get(method_name, LEVELS["info"])
        if level < threshold_of(name):
            return
        event, fields = event_dict.get("event", ""), {key: value for key, value in event_dict.items() if key != "event"}
        if (active := CELL.handoff()) is not None:
            active.put(LEVEL_NAMES[level], name, event, fields, {}, console=console)
        elif console:
            CELL.fallback(LEVEL_NAMES[level], name, event, fields)
    except Exception:
        _count_error()


class BoundLogger(BoundLoggerBase):
    """A bound logger whose level methods never raise and never wait.

    Methods: debug, info, warning, warn, error, exception, critical, fatal, msg, err, log, and their `a`-variants, all
    `method(event, /, *args, **fields)` with structlog's meaning: `args` are %-arguments of `event`.
    """

    _logger: Channel
    _processors: list[Processor]
    _context: dict[str, Any]

    def bind(self, /, **new_values: Any) -> Self:
        """Return a logger with more bound fields; their values are frozen here, once."""
        frozen = {key: freeze(value) for key, value in new_values.items()}
        return self.__class__(self._logger, self._processors, {**self._context, **frozen})

    def new(self, /, **new_values: Any) -> Self:
        """Return a logger with these bound fields only. Events that wait keep the dict they were logged with."""
        return self.__class__(self._logger, self._processors, {}).bind(**new_values)

    def log(self, level: int, event: Any = None, /, *args: Any, **fields: Any) -> None:
        """Log at a numeric level, rounded down to a named one."""
        name = level_name(level) if type(level) is int else "info"
        getattr(self, name)(event, *args, **fields)

    async def alog(self, level: int, event: Any = None, /, *args: Any, **fields: Any) -> None:
        """Do what `log` does."""
        self.log(level, event, *args, **fields)

    def is_enabled_for(self, level: int) -> bool:
        """Say whether an event of this level would be taken."""
        return level >= self._logger.threshold

    def get_effective_level(self) -> int:
        """Return the least level that is taken."""
        return self._logger.threshold

    isEnabledFor = is_enabled_for  # noqa: N815
    getEffectiveLevel = get_effective_level  # noqa: N815

    def _elsewhere(self, method: str, event: Any, fields: dict[str, Any]) -> None:
        """Handle an event that cannot go straight to a queue."""
        if self._processors[-1] is not HANDOFF:
            self._through_foreign_chain(method, event, fields)
        elif (opened := CELL.handoff()) is not None:
            opened.put(LEVEL_NAMES[LEVELS[method]], self._logger.name, event, fields, self._context)
        else:
            CELL.fallback(method, self._logger.name, event, {**self._context, **fields})

    def _through_foreign_chain(self, method: str, event: Any, fields: dict[str, Any]) -> None:
        """Take structlog's normal path: somebody (`capture_logs`, a test) put another chain in our place."""
        event_dict: Any = {**self._context, **fields, "event": event}
        try:
            for processor in self._processors:
                event_dict = processor(self._logger, method, event_dict)
            getattr(self._logger, method)(event_dict)
        except DropEvent:
            return


def _level_method(method: str) -> Callable[..., None]:
    """Make the method of one level: the whole way of a small event, from the caller to the queue.

    It is one function, and short: called once an update, its bytecode is read from main memory each time, and a second
    frame costs a third more. What is rare, large, or may change after the call goes through `Handoff.put`.
    """
    level = LEVELS[method]
    name = LEVEL_NAMES[level]
    types = (type, float, int, str, len)
    spans = (read_span_context, NO_CONTEXT, SPAN_KEY, INVALID_SPAN)
    tools = (CELL, HANDOFF, *types, time_ns, copy_context, *spans, BOUND_VARIABLES)

    def log(self: BoundLogger, event: Any = None, /, *args: Any, **fields: Any) -> None:
        channel = self._logger
        if level < channel.threshold:
            return
        # one tuple in place of a dozen globals, each of which is a cache line of its own
        cell, handoff, type_of, real, whole, text, size, now_ns, context, read_span, none, key, no_span, bound = tools
        try:
            if args:
                event = _percent(event, args)
            active = cell.active
            if active is None or self._processors[-1] is not handoff:
                self._elsewhere(method, event, fields)
                return
            queue = active.queue
            if size(queue) >= active.watermark and not active.has_room():
                return
            for value in fields.values():
                kind = type_of(value)
                if kind is real or (kind is whole and value > 1) or value is None:
                    continue
                if kind is text and size(value) <= 256:
                    continue
                # A 0 or 1 may be an order for a traceback; to look for one at every call would cost a twentieth of it.
                if kind is not whole or "exc_info" in fields or "stack_info" in fields:
                    active.put(name, channel.name, event, fields, self._context)
                    return
            if type_of(event) is not text or size(event) > 256 or size(fields) > 64:
                active.put(name, channel.name, event, fields, self._context)
                return
            if bound and contextvars_may_change():
                active.put(name, channel.name, event, fields, self._context)
                return
            stamp_ns = now_ns()
            span = read_span(none).get(key, no_span)
            if span is not no_span and span not in active.own_spans:
                span = active.on_other_span(span, event, fields, self._context, stamp_ns)
            queue.append((stamp_ns, name, channel.name, event, fields, self._context, context(), span, 0, True))
        except Exception:
            _count_error()

    log.__name__ = method
    log.__qualname__ = f"BoundLogger.{method}"
    log.__doc__ = f"Log at level {name}; never raises, never waits."
    return log


def _exception_method(self: BoundLogger, event: Any = None, /, *args: Any, **fields: Any) -> None:
    """Log at level error with the traceback of the exception that is being handled."""
    fields.setdefault("exc_info", True)
    self.error(event, *args, **fields)  # type: ignore[attr-defined]


def _async_method(method: str) -> Callable[..., Any]:
    async def log(self: BoundLogger, event: Any = None, /, *args: Any, **fields: Any) -> None:
        getattr(self, method)(event, *args, **fields)

    log.__name__ = f"a{method}"
    log.__doc__ = f"Do what `{method}` does; there is nothing to await."
    return log


for _method in LEVELS:
    setattr(BoundLogger, _method, _level_method(_method) if _method != "exception" else _exception_method)
    setattr(BoundLogger, f"a{_method}", _async_method(_method))


def assemble(logger: Channel, processors: Iterable[Processor], context: Mapping[str, Any]) -> BoundLogger:
    """Be structlog's wrapper class: make the bound logger of a channel.

    structlog's cached lazy proxy pays 1.4 us for every call, to find the bound method again. Where the proxy caches
    (our configuration says so), it is given the methods for good; another structlog, without such a proxy, goes on
    paying.
    """
    frozen = {key: freeze(value) for key, value in context.items()}
    bound = BoundLogger(logger, processors, frozen)
    proxy = sys._getframe(1).f_locals.get("self")
    if type(proxy) is LAZY_PROXY and getattr(proxy, "_cache_logger_on_first_use", False) is not False:
        proxy.__dict__.update({method: getattr(bound, method) for method in LEVELS})
    return bound


def _percent(event: Any, args: tuple[Any, ...]) -> str:
    """Apply %-arguments as stdlib logging does; what does not fit is shown beside the text."""
    text = event if isinstance(event, str) else safe_text(event)
    try:
        return text % (args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args)
    except Exception:
        return f"{text} {safe_text(args)}"


def _count_error() -> None:
    if (active := CELL.active) is not None:
        active.drops.append("error")
