"""Where this user's files lie: what outlives a program and belongs to no project."""

import os
from pathlib import Path

from rltelemetry.errors import SettingsError

__all__ = ["state_directory"]


def state_directory() -> Path:
    """Return `$XDG_STATE_HOME/rltelemetry`, or `~/.local/state/rltelemetry`; nothing is made there.

    Raises:
        SettingsError: this user has no home directory, and no variable names another place.

    Source: XDG Base Directory Specification: a path that is not absolute is to be ignored.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise SettingsError(
                f"XDG_STATE_HOME: got no absolute path, and no home directory ({error}); expected one of them. "
                "Set RLTELEMETRY_SPOOL_DIR to a directory that can be written."
            ) from None
    return state / "rltelemetry"
