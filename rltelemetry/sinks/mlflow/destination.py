"""What delivery asks of the run: where the data belongs, as far as that is known."""

from typing import Protocol

__all__ = ["Destination"]


class Destination(Protocol):
    """A run on the server."""

    @property
    def run_id(self) -> str | None:
        """The run's id; None until it is known."""

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None until it is known."""

    @property
    def artifact_root(self) -> str | None:
        """Where artifacts go, below the server's artifact route; None if it takes none."""

    @property
    def is_refused(self) -> bool:
        """Whether it is sure that there will be no run."""
