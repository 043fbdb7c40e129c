"""Where a spool lies: the file, its lock, its family.

A spool belongs to one process. The owner holds a POSIX lock on a file beside the database (not on the database: closing
another descriptor of it would release sqlite's own locks), which the kernel drops when the owner dies and which a
forked child does not inherit.
"""

import contextlib
import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Final, Literal

__all__ = ["SpoolFile"]

SUFFIX: Final = ".spool"
COMPANIONS: Final = ("-wal", "-shm", "-journal")
INDEX: Final = "-shm"
CHILD_MARK: Final = "+"

_owned: set[Path] = set()
"""What this process owns: a POSIX lock does not keep a process from taking it twice, and closing it once drops it."""


class SpoolFile:
    """One spool's file and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def new(cls, directory: Path, time_ns: int, parent: "SpoolFile | None" = None) -> "SpoolFile":
        """Name a file that nobody has; nothing is made yet. A forked child's name begins with that of its family."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time_ns / 1e9))
        family = f"{parent.family}{CHILD_MARK}" if parent else ""
        return cls(directory / f"{family}{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")

    @classmethod
    def all_in(cls, directory: Path) -> list["SpoolFile"]:
        """Return the spools of a directory, oldest first, a family's head before its children."""
        return sorted((cls(path) for path in directory.glob(f"*{SUFFIX}")), key=lambda file: file.path.stem)

    @property
    def family(self) -> str:
        """The name that a process that was not forked shares with its forked children, and theirs."""
        return self.path.stem.partition(CHILD_MARK)[0]

    @property
    def is_child(self) -> bool:
        """Whether a forked child made it."""
        return CHILD_MARK in self.path.stem

    @property
    def head(self) -> "SpoolFile":
        """The spool of the process at the head of the family: only its owner looks after the life of the run."""
        return SpoolFile(self.path.with_name(f"{self.family}{SUFFIX}"))

    def children(self) -> list["SpoolFile"]:
        """Return the spools that this family's forked children have made."""
        paths = self.path.parent.glob(f"{self.family}{CHILD_MARK}*{SUFFIX}")
        return [SpoolFile(path) for path in sorted(paths) if path != self.path]

    @property
    def lock_path(self) -> Path:
        """The file that the owner holds locked."""
        return self.path.with_suffix(".lock")

    @property
    def written_at_ns(self) -> int:
        """When something was last written, by the file system; 0 if nothing is there.

        Whoever only reads leaves an empty log and a new index behind: they do not count.
        """
        logs = [path for path in self._companions() if not path.name.endswith(INDEX) and _size(path)]
        return max(_mtime_ns(path) for path in (self.path, *logs))

    @property
    def has_content(self) -> bool:
        """Whether something has been written, by the file system."""
        return any(_size(path) for path in (self.path, *self._companions()) if not path.name.endswith(INDEX))

    @property
    def is_gone(self) -> bool:
        """Whether nothing lies there for certain: a disk that does not answer may hold it yet."""
        try:
            self.path.stat()
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        return False

    def acquire(self) -> bool:
        """Become the owner; False if somebody else is, in this process or another.

        Raises:
            OSError: the directory cannot be written.
        """
        if self._lock is not None:
            return True
        if self._key() in _owned:
            return False
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _lock(descriptor) or not _is_same_file(descriptor, self.lock_path):
            os.close(descriptor)
            return False
        self._lock = descriptor
        _owned.add(self._key())
        return True

    def acquire_abandoned(self) -> bool:
        """Become the owner of a spool whose owner has died; False if it lives, or has tidied up meanwhile."""
        with contextlib.suppress(OSError):
            if self.path.exists() and self.acquire():
                if not self.is_gone:
                    return True
                self.release(remove=True)
        return False

    def is_owned(self) -> bool:
        """Whether a living process owns it; a moment later that may have changed."""
        if not self.acquire_abandoned():
            return self.path.exists()
        self.release(remove=False)
        return False

    def release(self, *, remove: bool) -> None:
        """Give the file up; remove it if nothing is left to send."""
        for path in [self.path, *self._companions(), self.lock_path] if remove else []:
            with contextlib.suppress(OSError):
                path.unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            _owned.discard(self._key())

    def put_aside(self, why: Literal["damaged", "refused"]) -> Path:
        """Put a file aside that is damaged, foreign or holds what nobody takes, under a name that says so."""
        aside = self.path.with_name(f"{self.path.name}.{why}-{secrets.token_hex(2)}")
        for end in ("", *COMPANIONS):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + end).rename(aside.with_name(aside.name + end))
        return aside

    def _companions(self) -> list[Path]:
        return [self.path.with_name(self.path.name + end) for end in COMPANIONS]

    def _key(self) -> Path:
        return self.path.parent.resolve() / self.path.name


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file: its last owner may have removed it before we had the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
