"""What rltelemetry raises, and only from `configure` and the command line: never from a log call.

RltelemetryError
 ├─ SettingsError        a setting that cannot be used, named with its source
 ├─ MissingExtraError    something that is not installed, with the pip command
 └─ ServerError          an MLflow server of one's own cannot be started or stopped
"""

__all__ = ["MissingExtraError", "RltelemetryError", "ServerError", "SettingsError"]


class RltelemetryError(Exception):
    """The root of everything this package raises.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code = 1


class SettingsError(RltelemetryError, ValueError):
    """A setting cannot be used: the message says what was got, what is expected and what to do."""

    exit_code = 2


class MissingExtraError(RltelemetryError, ImportError):
    """An extra is not installed: the message has the pip command."""

    exit_code = 3


class ServerError(RltelemetryError):
    """An MLflow server of one's own cannot be started or stopped."""

    exit_code = 3
