"""What to watch: a directory of spools, one spool, a run by its id or its page, or whatever goes on now."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rltelemetry.errors import SettingsError
from rltelemetry.schema import DEFAULT_EXPERIMENT
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import MlflowClient, SpoolFile, read_experiment, read_runs
from rltelemetry.tail.board import Board
from rltelemetry.tail.sources import SpoolSource

__all__ = ["Target", "find_target"]

RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Target:
    """Where to look.

    Attributes:
        spool: the spool of the run, if there is one.
        run_id: the run in MLflow; a spool tells it otherwise.
        tracking_uri: the server that holds it, likewise.
    """

    spool: SpoolFile | None = None
    run_id: str | None = None
    tracking_uri: str | None = None

    @property
    def name(self) -> str:
        """What to call the run until its name is known."""
        return self.run_id or (self.spool.path.stem if self.spool else "")


async def find_target(wish: str | None, settings: Settings) -> Target:
    """Find out what is meant.

    Args:
        wish: a directory, a spool's path, a run's id or the address of its page; None means what goes on now.
        settings: where spools and server are where the wish does not say.

    Raises:
        SettingsError: there is nothing of the kind.
    """
    path = Path(wish) if wish else settings.spools
    if wish and (found := RUN_ID.search(wish)) and not path.exists():
        uri = wish.partition("/#/")[0] if wish.startswith("http") else settings.tracking_uri
        return _of_run(found[0], uri, settings)
    if path.is_file():
        return Target(SpoolFile(path))
    if wish and not path.is_dir():
        raise SettingsError(
            f"tail: got {wish}; expected a directory with spools, a run's id (32 characters) or the page's address."
        )
    if spool := _latest(path):
        return Target(spool)
    run_id = await _latest_run(settings)
    if run_id is None or wish:
        raise SettingsError(
            f"tail: got no run in {path}, and none from {settings.tracking_uri}; expected one. "
            "Start a training, or give a run's id."
        )
    return Target(None, run_id, settings.tracking_uri)


def _latest(directory: Path) -> SpoolFile | None:
    """The spool that was written last, of those whose owner lives, if there are any."""
    files = SpoolFile.all_in(directory)
    return max(files, key=lambda file: (file.is_owned(), not file.is_child, file.written_at_ns), default=None)


def _of_run(run_id: str, tracking_uri: str, settings: Settings) -> Target:
    """A run, with its spool if it is on this disk."""
    for file in SpoolFile.all_in(settings.spools):
        spool = SpoolSource(file)
        spool.read(Board(""))
        if spool.run_id == run_id:
            return Target(file)
    return Target(None, run_id, tracking_uri)


async def _latest_run(settings: Settings) -> str | None:
    client, timeout_s = MlflowClient(settings), settings.request_timeout_s
    experiment_id = settings.experiment_id or DEFAULT_EXPERIMENT
    try:
        if settings.experiment_name is not None:
            found = await client.get_experiment_by_name(settings.experiment_name, timeout_s)
            if (experiment := read_experiment(found.answer)) is None:
                return None
            experiment_id = experiment.experiment_id
        outcome = await client.latest_run(experiment_id, timeout_s)
    finally:
        await client.close()
    return next((run.run_id for run in read_runs(outcome.answer)), None)
