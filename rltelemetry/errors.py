"""What rltelemetry raises, and only from `configure` and the command line: never from a log call.

RltelemetryError
 └─ SettingsError    a setting that cannot be used, named with its source
"""

__all__ = ["RltelemetryError", "SettingsError"]


class RltelemetryError(Exception):
    """The root of everything this package raises."""


class SettingsError(RltelemetryError, ValueError):
    """A setting cannot be used: the message says what was got, what is expected and what to do."""
