"""`--resume`: which checkpoint a run goes on from, and whether it may under the settings that are given now."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pydantic import ValidationError

from trainers.cli.algorithms import AlgorithmEntry
from trainers.cli.screen import say
from trainers.config import Change, RunConfig, changes, is_free
from trainers.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from trainers.checkpoint import Checkpoint

__all__ = ["AUTO", "Saved", "check_changes", "read_saved"]

AUTO: Final = "auto"
"""Go on if there is something to go on from, else start: one command for a batch system that starts jobs again."""

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class Saved(Generic[ConfigT]):
    """A checkpoint that was found.

    Attributes:
        asked: the folder or file that was named.
        path: the file.
        checkpoint: what it holds.
        config: the configuration that it was saved under.
    """

    asked: Path
    path: Path
    checkpoint: "Checkpoint"
    config: ConfigT

    @property
    def update(self) -> int:
        """After how many updates it was saved."""
        return int(self.checkpoint.progress["update"])


def read_saved(path: Path, algorithm: AlgorithmEntry[ConfigT]) -> Saved[ConfigT]:
    """Read the newest good checkpoint of a folder, or the file that is named.

    Raises:
        CheckpointError: there is none, or it is another algorithm's or another version's.
    """
    from trainers.checkpoint import decode, newest_good

    found = newest_good(path, say)
    checkpoint = decode(found.content, str(found.path))
    if checkpoint.algorithm != algorithm.name:
        raise CheckpointError(
            f"{found.path}: got a checkpoint of {checkpoint.algorithm!r}; expected one of {algorithm.name!r}. "
            f"Use the command `{checkpoint.algorithm}`."
        )
    try:
        # as JSON: a list may become a tuple again
        config = algorithm.config_model.model_validate_json(json.dumps(checkpoint.config))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"{found.path}: its configuration is of another version: {where}: {problem['msg']}. Resume it with that "
            "version."
        ) from None
    return Saved(path, found.path, checkpoint, config)


def check_changes(saved: Saved[ConfigT], config: ConfigT) -> list[Change]:
    """Return the settings that the run goes on with in place of its old ones.

    Raises:
        ConfigError: there are some that it cannot go on with.
    """
    changed = changes(saved.config, config)
    fixed = [change for change in changed if not is_free(change)]
    if fixed:
        listed = "; ".join(map(str, fixed))
        raise ConfigError(
            f"--resume {saved.path}: got {listed}; expected the settings that the run was started with. "
            "Leave these out, or start a new run from its networks with --load-model."
        )
    return [change for change in changed if change.key != "checkpointing.directory"]
