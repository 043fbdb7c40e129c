"""One process at a time: a lock on a folder, which the kernel drops when its holder dies."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rltelemetry.errors import ServerError

__all__ = ["locked"]

LOCK_S: Final = 10.0
"""Longer than stopping a server takes, which happens under the lock."""

POLL_S: Final = 0.02


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock for a `with` block; the folder is made if it is not there.

    Raises:
        ServerError: the folder cannot be written, or somebody holds the lock for longer than LOCK_S.
    """
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ServerError(
            f"{folder}: got {error.strerror}; expected a directory that can be written. "
            "Start in a directory of your own, or give the address of an MLflow server."
        ) from None
    with lock:
        deadline = time.monotonic() + LOCK_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{folder}: got a lock that is held for more than {LOCK_S:g} s; expected a moment. "
                    "Another command there does not end: end it."
                )
            time.sleep(POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
