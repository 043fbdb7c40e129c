"""What of a run outlives an interruption: learner, statistics, counts, the global generators.

The environments do not: envpool cannot save them. After an interruption every episode starts anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

from torch import Tensor

from trainers.checkpoint.contents import Checkpoint
from trainers.checkpoint.random_state import random_state, set_random_state
from trainers.config import RunConfig
from trainers.ranks import ALONE, Ranks
from trainers.rollout import EpisodeStatistics

__all__ = ["Progress", "RunState", "Stateful"]

PACKAGES: Final = ("rltelemetry", "torch", "envpool", "numpy")


class Stateful(Protocol):
    """An algorithm, as far as a checkpoint is concerned."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: tensors, numbers, texts, and lists and dicts of these.

        Ranks have it in common, but for what lies under `own`, if there is that: generators, a replay.
        """

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
    ranks: Ranks = ALONE

    def capture(self, algorithm: str, config: RunConfig, telemetry: dict[str, Any]) -> Checkpoint:
        """Return everything as it stands, between two updates; called by all ranks."""
        learner, episodes, random = self.learner.state_dict(), self.episodes.state_dict(), random_state()
        own = {"learner": _own(learner), "episodes": episodes, "random": random}
        return Checkpoint(
            algorithm=algorithm,
            config=config.model_dump(mode="json"),
            progress=dict(vars(self.progress)),
            episodes=episodes,
            learner=learner,
            random=random,
            # a tensor would arrive on the sender's GPU, of which the first rank knows nothing
            ranks=self.ranks.gather_on_first(None if self.ranks.is_first else _on_cpu(own))[1:],
            telemetry=telemetry,
            versions={package: _version(package) for package in PACKAGES},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from there. A rank that was not there then has its fresh generators, and no episodes."""
        self.progress = Progress(**checkpoint.progress)
        self.restore_learner(checkpoint)
        if self.ranks.rank <= len(checkpoint.ranks):
            own = self._own_part(checkpoint)
            self.episodes.load_state_dict(own["episodes"])
            set_random_state(own["random"])

    def restore_learner(self, checkpoint: Checkpoint) -> None:
        """Put the learner alone back; what a rank has of its own stays where it was not there then."""
        is_known = self.ranks.rank <= len(checkpoint.ranks)
        own = self._own_part(checkpoint)["learner"] if is_known else _own(self.learner.state_dict())
        self.learner.load_state_dict(checkpoint.learner | own)

    def _own_part(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """What this rank had of its own; the first one's lies in the checkpoint itself."""
        return checkpoint.ranks[self.ranks.rank - 1] if self.ranks.rank else vars(checkpoint)


def _own(learner: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in learner.items() if key == "own"}


def _on_cpu(state: Any) -> Any:
    """The same with all of its tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return type(state)(map(_on_cpu, state)) if type(state) in {list, tuple} else state


def _version(package: str) -> str:
    """Code on PYTHONPATH, a cluster's way, is not installed and has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
