"""When a run is saved, and that a failure to save costs the run nothing.

On cadence, at the end, and when somebody asks the run to stop. With `exact`, a checkpoint is a barrier that the
uninterrupted run passes, too, so none is made out of turn: a resumed run does the updates since the last one again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from trainers.checkpoint.contents import Checkpoint, decode, encode
from trainers.checkpoint.state import RunState
from trainers.checkpoint.store import CheckpointFolder, newest_good
from trainers.config import RunConfig
from trainers.errors import CheckpointError
from trainers.ranks import ALONE, Ranks

__all__ = ["Keeper"]

Say = Callable[[str], None]


class Keeper:
    """Saves one run.

    Args:
        folder: where, open for as long as the run lasts; None saves nothing, or leaves it to the first rank.
        algorithm: its name.
        config: the run's configuration.
        identify: returns by what the run goes on in MLflow.
        complain: told of checkpoints that could not be saved or read.
        ranks: all of them take part in a save, and the first one writes.
        slow_update_s: a run whose updates take longer keeps its state in memory, too: it may have to leave within one.
        on_saved: told of each checkpoint that was saved.
        unhurried: makes a block that nobody's patience ends: what is saved in it is saved whole.

    Attributes:
        unhurried: as given.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None,
        algorithm: str,
        config: RunConfig,
        identify: Callable[[], dict[str, Any]],
        complain: Say,
        ranks: Ranks = ALONE,
        slow_update_s: float = 1.0,
        on_saved: Callable[[Path], None] | None = None,
        unhurried: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.unhurried = unhurried
        self._folder = folder
        self._algorithm = algorithm
        self._config = config
        self._identify = identify
        self._complain = complain
        self._slow_update_s = slow_update_s
        self._on_saved = on_saved or _nobody
        self._ranks = ranks
        self._is_saving = folder is not None or (config.checkpointing.save and not ranks.is_first)
        self._remembered: tuple[int, bytes] | None = None
        self._last_path: Path | None = None
        self._is_failing = self._is_page_failing = False

    @property
    def last_path(self) -> Path | None:
        """The last checkpoint that this process has saved."""
        return self._last_path

    def is_due(self, update: int, *, is_last: bool, is_stopping: bool) -> bool:
        """Return whether to save after `update`, counted from 1."""
        if not self._is_saving:
            return False
        checkpointing = self._config.checkpointing
        return is_last or update % checkpointing.interval == 0 or (is_stopping and not checkpointing.exact)

    def is_barrier(self, update: int) -> bool:
        """Return whether the environments start anew after `update`."""
        exact = self._is_saving and self._config.checkpointing.exact
        return exact and update % self._config.checkpointing.interval == 0

    def save(self, state: RunState) -> None:
        """Save; a failure is said, and the checkpoints before it stay, as does what is remembered."""
        checkpoint = self._capture(state)
        if self._ranks.is_first:
            self._write(state.progress.update, encode(checkpoint))

    def remember(self, state: RunState, update_s: float) -> None:
        """Keep a slow run's state in memory, so that it can be saved without waiting for the update under way.

        Args:
            state: between two updates.
            update_s: how long the next one may take, its evaluation included.
        """
        is_possible = self._folder is not None and self._ranks.size == 1  # ranks do not agree on what is slow
        if is_possible and update_s > self._slow_update_s and not self._config.checkpointing.exact:
            self._remembered = state.progress.update, encode(self._capture(state))

    def rescue(self) -> None:
        """Save what is remembered: the update under way is given up."""
        if self._remembered is not None:
            self._write(*self._remembered)

    def newest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole, for all ranks; None if there is none."""
        content = self._ranks.from_first(self._newest_content())
        return decode(content, "the last checkpoint") if content is not None else None

    def _newest_content(self) -> bytes | None:
        if self._folder is None or self._folder.newest_update is None:
            return None
        try:
            return newest_good(self._folder.path, self._complain).content
        except CheckpointError:
            return None

    def _capture(self, state: RunState) -> Checkpoint:
        return state.capture(self._algorithm, self._config, self._identify())

    def _write(self, update: int, content: bytes) -> None:
        assert self._folder is not None
        try:
            self._last_path = self._folder.save(update, content)
        except OSError as error:
            if not self._is_failing:
                self._complain(
                    f"{self._folder.path}: the checkpoint of update {update} cannot be saved: {error.strerror}. "
                    "Training goes on, and the checkpoints before it stay; said once until one is saved again."
                )
            self._is_failing = True
        else:
            self._is_failing = False
            self._remembered = None
            self._tell(self._last_path)

    def _tell(self, path: Path) -> None:
        """Tell of a checkpoint; what the listener does wrong is no failure to save, and does not end the run."""
        try:
            self._on_saved(path)
        except Exception as error:
            if not self._is_page_failing:
                self._complain(
                    f"{path}: is saved, but does not get onto the run's page: {type(error).__name__}: {error}. "
                    "Training goes on; said once."
                )
            self._is_page_failing = True


def _nobody(_path: Path) -> None:
    """Nobody wants to know."""
