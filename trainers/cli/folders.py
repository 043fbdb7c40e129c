"""Which folder a run's checkpoints go to, and that no other run's are there."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from trainers.checkpoint import CheckpointFolder
from trainers.cli.arguments import Arguments
from trainers.config import RunConfig
from trainers.errors import CheckpointError

__all__ = ["checkpoint_folder"]

ROOT: Final = Path("checkpoints")
UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]+")
"""What a task's name may hold and a folder's had better not: separators, dots."""


@contextmanager
def checkpoint_folder(algorithm: str, arguments: Arguments[Any]) -> Iterator[CheckpointFolder | None]:
    """Open the folder of a run for the block; None if the run saves nothing.

    Raises:
        CheckpointError: it cannot be written, or belongs to another run.
    """
    checkpointing = arguments.config.checkpointing
    if not checkpointing.save:
        yield None
        return
    path = Path(checkpointing.directory) if checkpointing.directory else _new_folder(algorithm, arguments.config)
    folder = CheckpointFolder(path, checkpointing.keep)
    try:
        _claim(folder, arguments)
        yield folder
    finally:
        folder.close()


def _new_folder(algorithm: str, config: RunConfig) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = UNSAFE.sub("-", f"{config.environment.task}-{algorithm}-{stamp}").strip("-")
    candidates = (ROOT / (f"{name}-{number}" if number else name) for number in count())
    return next(path for path in candidates if not path.exists())


def _claim(folder: CheckpointFolder, arguments: Arguments[Any]) -> None:
    newest, saved = folder.newest_update, arguments.saved
    if newest is None:
        return
    if saved is None or saved.path.parent.resolve() != folder.path.resolve():
        raise CheckpointError(
            f"checkpointing.directory: got {folder.path}, which holds another run's checkpoints; expected an empty "
            f"folder. Give another one, or go on with that run: --resume {folder.path}"
        )
    if newest > saved.update and saved.asked == saved.path:
        raise CheckpointError(
            f"--resume {saved.asked}: got update {saved.update} of a run that has gone on to {newest}; expected the "
            f"newest, --resume {folder.path}, or another --checkpointing.directory for what follows."
        )
    folder.set_aside_after(saved.update)
