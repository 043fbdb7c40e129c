"""What lets a run outlive interruptions, in one place for the loop."""

from dataclasses import dataclass
from typing import Protocol

from trainers.checkpoint import Keeper, RunState, Stateful
from trainers.config import RunConfig
from trainers.divergence import DivergenceGuard
from trainers.ranks import ALONE, Ranks
from trainers.rollout import EpisodeStatistics

__all__ = ["StopRequest", "Survival", "unguarded"]


class StopRequest(Protocol):
    """Whether somebody has asked the run to end."""

    @property
    def exit_code(self) -> int | None:
        """What the program is to end with; None while nobody has asked."""


@dataclass(frozen=True)
class Survival:
    """The means of one run.

    Attributes:
        state: what goes on; at the start of a run, or as a checkpoint had it.
        keeper: saves it.
        guard: stands around each update.
        stop: asks for an early end.
        ranks: the processes of the run.
    """

    state: RunState
    keeper: Keeper
    guard: DivergenceGuard
    stop: StopRequest
    ranks: Ranks = ALONE


def unguarded(learner: Stateful, num_envs: int) -> Survival:
    """Return the means of a run that saves nothing and ends with the first number that is not finite."""
    return Survival(
        RunState(learner, EpisodeStatistics(num_envs)),
        Keeper(None, "", RunConfig(), identify=dict, complain=_say_nothing),
        DivergenceGuard("stop", go_back=lambda: False, complain=_say_nothing),
        _Never(),
    )


class _Never:
    exit_code = None


def _say_nothing(_text: str) -> None:
    pass
