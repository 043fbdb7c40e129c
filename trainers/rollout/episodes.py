"""Returns and lengths of the episodes that finish during training.

Shapes: T horizon, N envs.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpisodeStatistics", "EpisodeSummary"]


class EpisodeSummary(NamedTuple):
    """The last episodes in numbers; all but the count are None before the first episode has ended."""

    episodes: int
    mean_return: float | None
    max_return: float | None
    min_return: float | None
    episode_length_mean: float | None
    episode_length_max: float | None
    episode_length_min: float | None


class EpisodeStatistics:
    """Returns and lengths of finished episodes, summed in float64 over rollouts.

    Args:
        num_envs: N.
        window: how many of the last episodes a summary covers.

    Attributes:
        returns: of the last episodes, in the order in which they ended.
        lengths: likewise, in environment steps.
        num_finished: episodes ever finished.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.num_finished = 0
        self._return_N = np.zeros(num_envs, np.float64)
        self._length_N = np.zeros(num_envs, np.int64)

    def add(self, score_TN: NDArray[Any], finished_TN: NDArray[np.bool_], valid_TN: NDArray[np.bool_]) -> None:
        """Take in one rollout; dummy rows count for nothing."""
        done_TN = finished_TN & valid_TN
        totals = np.where(valid_TN, score_TN, 0.0).cumsum(0, np.float64) + self._return_N
        steps = valid_TN.cumsum(0, np.int64) + self._length_N
        t, returns, self._return_N = _split_at(done_TN, totals)
        _, lengths, self._length_N = _split_at(done_TN, steps)
        in_time = np.argsort(t, kind="stable")
        self.returns.extend(returns[in_time].tolist())
        self.lengths.extend(lengths[in_time].tolist())
        self.num_finished += t.size

    def summary(self) -> EpisodeSummary:
        """Sum up the window."""
        if not self.returns:
            return EpisodeSummary(0, None, None, None, None, None, None)
        returns, lengths = np.array(self.returns), np.array(self.lengths)
        return EpisodeSummary(
            self.num_finished,
            *(float(of(returns)) for of in (np.mean, np.max, np.min)),
            *(float(of(lengths)) for of in (np.mean, np.max, np.min)),
        )

    @classmethod
    def joined(cls, states: Sequence[dict[str, Any]]) -> "EpisodeStatistics":
        """Return the finished episodes of several processes, given their `state_dict`s."""
        everything = cls(1, window=sum(len(state["returns"]) for state in states))
        everything.returns.extend(value for state in states for value in state["returns"])
        everything.lengths.extend(value for state in states for value in state["lengths"])
        everything.num_finished = sum(state["num_finished"] for state in states)
        return everything

    def drop_unfinished(self) -> None:
        """Forget the episodes under way: their environments start anew."""
        self._return_N[:] = 0
        self._length_N[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """The finished episodes, as plain numbers; those under way do not outlive their environments."""
        return {"returns": list(self.returns), "lengths": list(self.lengths), "num_finished": self.num_finished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.returns = deque(state["returns"], maxlen=self.returns.maxlen)
        self.lengths = deque(state["lengths"], maxlen=self.lengths.maxlen)
        self.num_finished = state["num_finished"]
        self.drop_unfinished()


def _split_at(done_TN: NDArray[np.bool_], running_TN: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Cut running sums at the ends of episodes.

    Returns:
        The time of each end (environment by environment), the sum over the episode that ends there, and per
        environment the sum over the episode that goes on.
    """
    env, t = np.nonzero(done_TN.T)
    at_end = running_TN[t, env]
    follows = np.zeros(env.size, np.bool_)
    follows[1:] = env[1:] == env[:-1]
    before = np.where(follows, np.roll(at_end, 1), 0)
    last_N = np.zeros(done_TN.shape[1], running_TN.dtype)
    last_N[env] = at_end  # numpy keeps the last of repeated indices
    return t, at_end - before, running_TN[-1] - last_N
