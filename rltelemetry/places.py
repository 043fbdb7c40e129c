"""Where this user's files lie: what outlives a program and belongs to no project."""

import os
import stat
import tempfile
from pathlib import Path

from rltelemetry.errors import SettingsError

__all__ = ["is_makeshift", "state_directory"]


def state_directory() -> Path:
    """Return `$XDG_STATE_HOME/rltelemetry`, or `~/.local/state/rltelemetry`; nothing is made there.

    A user without a home (a container's bare number) gets a directory of his own beside the temporary files, which is
    made at once, before somebody else does.

    Raises:
        SettingsError: that one is not this user's alone, and no variable names another place.

    Source: XDG Base Directory Specification: a path that is not absolute is to be ignored.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            return _own_temporary_directory()
    return state / "rltelemetry"


def is_makeshift(directory: Path) -> bool:
    """Whether a directory is the one beside the temporary files, which a restart may empty."""
    return directory == _temporary_place()


def _own_temporary_directory() -> Path:
    place = _temporary_place()
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    except OSError:
        is_own = False
    if not is_own:
        raise SettingsError(
            f"state directory: got no home directory, and no {place} of this user's alone; expected one of them. "
            "Set RLTELEMETRY_SPOOL_DIR to a directory that can be written."
        )
    return place


def _temporary_place() -> Path:
    return Path(tempfile.gettempdir()) / f"rltelemetry-{os.getuid()}"
