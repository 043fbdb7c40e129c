"""What of a run becomes a file of its page in MLflow, when `logging.artifacts` is on.

Settings and picture are texts, and wait in the telemetry's spool; checkpoints are files, and are read when they are
sent: what the run has removed by then is passed over. As on disk, the newest `checkpointing.keep` stay there.
"""

import json
from collections import deque
from pathlib import Path
from typing import Final, Self

from rltelemetry import Telemetry
from trainers.checkpoint import CheckpointFolder, checkpoints_in, files_of, read_text
from trainers.config import RunConfig, dump
from trainers.emit import Emitter

__all__ = ["CURVE", "Artifacts", "restore_curve"]

CURVE: Final = "returns.json"
"""Lies beside the checkpoints: a resumed run draws the whole curve."""

CHECKPOINTS: Final = "checkpoints"


class Artifacts:
    """A context manager around the training of one run: logs its artifacts.

    Args:
        telemetry: takes them.
        emitter: has the returns.
        config: the run's settings; `logging.artifacts` decides.
        title: of the picture.
        folder: where the checkpoints lie.
        resumed: the checkpoint that the run goes on from, if it does: it and those before it are on the page already.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        emitter: Emitter,
        config: RunConfig,
        title: str,
        folder: CheckpointFolder | None,
        resumed: Path | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._emitter = emitter
        self._config = config
        self._title = title
        self._folder = folder
        self._is_on = config.logging.artifacts
        self._uploaded: deque[Path] = deque(_up_to(resumed) if resumed else ())

    def __enter__(self) -> Self:
        if self._is_on:
            # where this run's telemetry goes is no setting of the next one
            config = self._config.model_copy(update={"logging": type(self._config.logging)()})
            self._telemetry.log_text(dump(config), "config.yaml")
        return self

    def saved(self, path: Path) -> None:
        """Take a checkpoint that has just been saved."""
        if self._folder is not None:
            self._folder.put_text(CURVE, json.dumps(self._emitter.curve.state_dict()))
        if not self._is_on:
            return
        self._uploaded.append(path)
        for file in files_of(path):
            self._telemetry.log_artifact(file, f"{CHECKPOINTS}/{file.name}")
        while len(self._uploaded) > self._config.checkpointing.keep:
            for file in files_of(self._uploaded.popleft()):
                self._telemetry.remove_artifact(f"{CHECKPOINTS}/{file.name}")
        self._draw()

    def __exit__(self, *_error: object) -> None:
        if self._is_on:
            self._draw()

    def _draw(self) -> None:
        self._telemetry.log_text(self._emitter.curve.picture(self._title), "returns.svg")


def restore_curve(emitter: Emitter, folder: Path, timesteps: int) -> None:
    """Let the curve of a resumed run begin with what was before; it begins anew if that cannot be read."""
    text = read_text(folder, CURVE)
    if text is None:
        return
    try:
        emitter.curve.load_state_dict(json.loads(text), timesteps)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        emitter.complain(f"{folder / CURVE}: is no curve of returns, or only a part of one; the picture begins anew.")


def _up_to(checkpoint: Path) -> list[Path]:
    """A run's checkpoints on disk, oldest first."""
    return [path for path in checkpoints_in(checkpoint.parent) if path.name <= checkpoint.name]
