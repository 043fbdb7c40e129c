"""A folder of checkpoints: written whole or not at all, proved by a digest, the last few kept.

    update-00000120.pt       tensors, numbers and texts, as torch.save writes them
    update-00000120.sha256   its digest, as `sha256sum --check` reads it: without it the checkpoint does not exist
    latest                   the name of the newest one, for scripts; nothing here believes it
    lock                     held by the run that writes here

A file is written under a temporary name in the same folder, synced, renamed, and the folder synced: after kill -9, a
full disk or a power cut a checkpoint is there or not, and the one before it is untouched. Names are matched, links are
not followed, and every file is reached through the folder's descriptor, so that nothing outside it is read or written.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from trainers.errors import CheckpointError

__all__ = ["CheckpointFolder", "Found", "checkpoints_in", "files_of", "newest_good", "read_text"]

NAME: Final = re.compile(r"update-(\d{8,12})\.pt")
SUFFIX: Final = ".pt"
MANIFEST_SUFFIX: Final = ".sha256"
TEMPORARY: Final = re.compile(r"\.(update-\d{8,12}\.(pt|sha256)|latest|[a-z]+\.json)\.\d+\.new")
LATEST: Final = "latest"
LOCK: Final = "lock"

Warn = Callable[[str], None]


class Found(NamedTuple):
    """A checkpoint whose digest is right.

    Attributes:
        update: after how many updates it was saved.
        path: where it lies, for messages.
        content: its bytes.
    """

    update: int
    path: Path
    content: bytes


class CheckpointFolder:
    """Writes checkpoints; one process at a time.

    Args:
        path: the folder; made, for its owner only, if it is not there.
        keep: how many of the newest checkpoints stay.

    Raises:
        CheckpointError: it cannot be written, or another run writes there.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = self._acquire()
        except OSError as error:
            raise CheckpointError(
                f"{path}: checkpoints cannot be saved there: {error.strerror}. Give another --checkpointing.directory."
            ) from None
        self._remove(name for name in _names(self._folder) if TEMPORARY.fullmatch(name))

    @property
    def newest_update(self) -> int | None:
        """The update of the newest checkpoint, good or not; None if there is none."""
        return max(_updates(self._folder), default=None)

    def save(self, update: int, content: bytes) -> Path:
        """Write a checkpoint, and let the oldest go.

        Raises:
            OSError: it could not be written; those before it are as they were.
        """
        name = _name(update)
        self._write(name, content)
        self._write(_manifest(name), _manifest_of(name, content))
        self._write(LATEST, f"{name}\n".encode())
        os.fsync(self._folder)
        self._remove_old()
        return self.path / name

    def put_text(self, name: str, text: str) -> None:
        """Write a note beside the checkpoints; a failure costs the note."""
        with suppress(OSError):
            self._write(name, text.encode())

    def set_aside_after(self, update: int) -> None:
        """Take checkpoints of later updates out of the way: they are damaged, and the run goes on before them."""
        for later in _updates(self._folder):
            if later > update:
                name = _name(later)
                with suppress(OSError):
                    os.replace(name, f"{name}.damaged", src_dir_fd=self._folder, dst_dir_fd=self._folder)
                self._remove([_manifest(name)])

    def close(self) -> None:
        """Let others write here."""
        os.close(self._lock)
        os.close(self._folder)

    def _acquire(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(LOCK, flags, 0o600, dir_fd=self._folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise CheckpointError(
                f"{self.path}: another run saves its checkpoints there. Wait for its end, or give another "
                "--checkpointing.directory."
            ) from None
        return lock

    def _write(self, name: str, content: bytes) -> None:
        temporary = f".{name}.{os.getpid()}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=self._folder)
        try:
            try:
                _write_all(file, content)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            self._remove([temporary])
            raise

    def _remove_old(self) -> None:
        kept = sorted(_updates(self._folder))[-self._keep :]
        for name in _names(self._folder):
            update = _update_of(name.replace(MANIFEST_SUFFIX, SUFFIX))
            if update is not None and update < kept[0]:
                self._remove([name])

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)


def newest_good(path: Path, warn: Warn) -> Found:
    """Read the newest checkpoint of a folder that is whole, or the one that is named.

    Args:
        path: a folder of checkpoints, or one file in it.
        warn: told once if newer ones are damaged.

    Raises:
        CheckpointError: there is none.
    """
    folder_path, wanted = (path.parent, path.name) if path.suffix == SUFFIX else (path, None)
    try:
        folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Give a folder of checkpoints.") from None
    try:
        updates = [update for update in _updates(folder) if wanted in (None, _name(update))]
        return _newest_good(folder, folder_path, sorted(updates, reverse=True), warn)
    finally:
        os.close(folder)


def checkpoints_in(path: Path) -> list[Path]:
    """Return the checkpoints of a folder, good or not, oldest first; none if it cannot be read."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [path / _name(update) for update in sorted(_updates(folder))]
    finally:
        os.close(folder)


def files_of(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint: itself, and the digest without which it does not exist."""
    return [checkpoint, checkpoint.with_name(_manifest(checkpoint.name))]


def read_text(path: Path, name: str) -> str | None:
    """Read a note beside the checkpoints; None if there is none."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(folder, name).decode()
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(folder)


def _newest_good(folder: int, path: Path, updates: list[int], warn: Warn) -> Found:
    damaged: list[str] = []
    for update in updates:
        try:
            content = _read_checked(folder, _name(update))
        except OSError as error:
            damaged.append(f"{_name(update)} ({error.strerror})")
            continue
        if damaged:
            warn(f"{path}: {', '.join(damaged)} cannot be used; {_name(update)}, the newest that is whole, is.")
        return Found(update, path / _name(update), content)
    why = f"none of {', '.join(damaged)} can be used" if damaged else "there is no checkpoint"
    raise CheckpointError(f"{path}: {why}. Give a folder that a run has saved to.")


def _read_checked(folder: int, name: str) -> bytes:
    """Return a checkpoint's bytes.

    Raises:
        OSError: it cannot be read, is no plain file, or is not what its manifest says.
    """
    content, manifest = _read(folder, name), _read(folder, _manifest(name))
    if manifest != _manifest_of(name, content):
        raise OSError(errno.EBADMSG, "its digest is wrong")
    return content


def _read(folder: int, name: str) -> bytes:
    # O_NONBLOCK: a pipe under this name must not hold us up
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(file, "rb") as reader:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "is no plain file")
        return reader.read()


def _write_all(file: int, content: bytes) -> None:
    """Write everything; a full disk may take less than it was given before it says so."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _updates(folder: int) -> list[int]:
    """The checkpoints that exist: those with a manifest."""
    names = set(_names(folder))
    updates = (_update_of(name) for name in names if _manifest(name) in names)
    return [update for update in updates if update is not None]


def _names(folder: int) -> list[str]:
    return os.listdir(folder)


def _update_of(name: str) -> int | None:
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def _name(update: int) -> str:
    return f"update-{update:08d}{SUFFIX}"


def _manifest(name: str) -> str:
    return name.removesuffix(SUFFIX) + MANIFEST_SUFFIX


def _manifest_of(name: str, content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
