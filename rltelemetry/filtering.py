"""Which log calls count: RUST_LOG-style directives such as `info,httpx=warning,trainers.spo=debug`.

One filter decides for every sink, in the caller, before anything else is paid for. A directive is a level for all
loggers, `name=level`, or a bare `name` (that logger at `trace`); the longest dotted prefix of a logger's name
wins, later duplicates win, and loggers that no directive speaks of are off unless a bare level is given: as in the Rust
world, where the notation comes from. `::` may stand for `.`.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["BACKEND_LOGGERS", "BACKEND_THRESHOLD", "LEVELS", "OFF", "Filter"]

OFF = 1000
"""Above every level that anybody uses."""

LEVELS: dict[str, int] = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": OFF,
}

BACKEND_LOGGERS: tuple[str, ...] = (
    "PIL",
    "absl",
    "alembic",
    "asyncio",
    "filelock",
    "fsspec",
    "git",
    "grpc",
    "h5py",
    "httpcore",
    "httpx",
    "huggingface_hub",
    "inductor",
    "jax",
    "matplotlib",
    "numba",
    "numexpr",
    "opentelemetry",
    "requests",
    "sqlalchemy",
    "tensorboard",
    "tensorflow",
    "torch",
    "triton",
    "urllib3",
)
"""Libraries that speak for their own developers; the prefix `torch` covers `torch._inductor` and the rest."""

BACKEND_THRESHOLD = logging.ERROR
"""A library's warnings (retries, recompiles) are the noise that hides a dashboard; its errors are news."""

_DEFAULT_LEVEL = "info"
_EXPECTED = f"one of {', '.join(LEVELS)}"
_NAME = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")
_MAX_NAME = 256  # each dotted prefix is looked up: a hostile name must not make that quadratic
_MAX_PROBLEMS = 20
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Filter:
    """The least level that counts, for each logger.

    Attributes:
        default: threshold of the loggers that no directive names.
        thresholds: threshold of each named logger and of those below it.
    """

    default: int = logging.INFO
    thresholds: Mapping[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> tuple["Filter", list[str]]:
        """Read directives; what cannot be read is left out and named.

        Args:
            text: comma-separated directives. Without a single usable one, `info` applies.

        Returns:
            The filter, and one line for each malformed directive (the first 20, then how many more).
        """
        default: int | None = None
        thresholds: dict[str, int] = {}
        malformed: list[tuple[int, str]] = []
        for position, part in enumerate(text.split(","), start=1):
            directive = part.strip()
            if not directive:
                continue
            parsed = _parse_directive(directive)
            if parsed is None:
                malformed.append((position, directive))
            elif parsed[0] is None:
                default = parsed[1]
            else:
                thresholds[parsed[0]] = parsed[1]
        if default is None:
            default = OFF if thresholds else LEVELS[_DEFAULT_LEVEL]
        return cls(default, thresholds), _problems(malformed)

    @classmethod
    def from_level(cls, level: str, backend_logs_visible: bool) -> tuple["Filter", list[str]]:
        """Make the filter of the plain settings: one level, and chatty libraries shown or not."""
        default = LEVELS.get(level.strip().lower())
        problems = []
        if default is None:
            problems.append(f"log level: got {_shown(level)}; expected {_EXPECTED}. '{_DEFAULT_LEVEL}' applies.")
            default = LEVELS[_DEFAULT_LEVEL]
        hidden = () if backend_logs_visible else BACKEND_LOGGERS
        return cls(default, dict.fromkeys(hidden, max(default, BACKEND_THRESHOLD))), problems

    def threshold(self, logger_name: str) -> int:
        """Return the least numeric level at which `logger_name` is heard."""
        name = logger_name[:_MAX_NAME]
        while name:
            threshold = self.thresholds.get(name)
            if threshold is not None:
                return threshold
            name = name.rpartition(".")[0]
        return self.default

    @property
    def lowest(self) -> int:
        """The least level at which any logger is heard."""
        return min(self.default, *self.thresholds.values()) if self.thresholds else self.default

    def describe_hidden(self, logger_name: str) -> str | None:
        """Say that `logger_name` is not heard at INFO, and from which level on it is; None if it is heard."""
        threshold = self.threshold(logger_name)
        if threshold <= logging.INFO:
            return None
        heard = next((name for name, number in LEVELS.items() if number == threshold), str(threshold))
        state = "it is off" if threshold >= OFF else f"it is heard from {heard.upper()} on"
        return f"INFO of logger '{logger_name}' is hidden: {state}"


def _parse_directive(directive: str) -> tuple[str | None, int] | None:
    """Return (logger name or None for all, threshold), or None if the directive is malformed."""
    name, separator, level = directive.partition("=")
    if not separator and name.lower() in LEVELS:
        return None, LEVELS[name.lower()]
    threshold = LEVELS.get(level.strip().lower()) if separator else LEVELS["trace"]
    logger_name = name.strip().replace("::", ".")
    if threshold is None or not _NAME.fullmatch(logger_name):
        return None
    return logger_name, threshold


def _problems(malformed: list[tuple[int, str]]) -> list[str]:
    lines = [
        f"log filter, directive {position}: got {_shown(directive)}; expected LEVEL, LOGGER=LEVEL or LOGGER, "
        f"with LEVEL {_EXPECTED}. It is ignored."
        for position, directive in malformed[:_MAX_PROBLEMS]
    ]
    if len(malformed) > _MAX_PROBLEMS:
        lines.append(f"log filter: {len(malformed) - _MAX_PROBLEMS} more malformed directives are ignored.")
    return lines


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
