"""What of a run outlives an interruption: learner, statistics, counts, the global generators.

The environments do not: envpool cannot save them. After an interruption every episode starts anew.
"""

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol

from trainers.checkpoint.contents import Checkpoint
from trainers.checkpoint.random_state import random_state, set_random_state
from trainers.config import RunConfig
from trainers.rollout import EpisodeStatistics

__all__ = ["Progress", "RunState", "Stateful"]

PACKAGES: Final = ("rltelemetry", "torch", "envpool", "numpy")


class Stateful(Protocol):
    """An algorithm, as far as a checkpoint is concerned."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: tensors, numbers, texts, and lists and dicts of these."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from a `state_dict`; the environments start new episodes."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        update: updates done.
        timesteps: environment steps of all of them.
        training_s: seconds spent in them, without evaluations.
    """

    update: int = 0
    timesteps: int = 0
    training_s: float = 0.0


@dataclass
class RunState:
    """The parts of a run that go on."""

    learner: Stateful
    episodes: EpisodeStatistics
    progress: Progress = field(default_factory=Progress)

    def capture(self, algorithm: str, config: RunConfig, telemetry: dict[str, Any]) -> Checkpoint:
        """Return everything as it stands, between two updates."""
        return Checkpoint(
            algorithm=algorithm,
            config=config.model_dump(mode="json"),
            progress=dict(vars(self.progress)),
            episodes=self.episodes.state_dict(),
            learner=self.learner.state_dict(),
            random=random_state(),
            telemetry=telemetry,
            versions={package: version(package) for package in PACKAGES},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from there."""
        self.learner.load_state_dict(checkpoint.learner)
        self.episodes.load_state_dict(checkpoint.episodes)
        self.progress = Progress(**checkpoint.progress)
        set_random_state(checkpoint.random)
