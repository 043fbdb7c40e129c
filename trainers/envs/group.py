"""Environments of one envpool that step together: checked actions in, packed observations out.

Autoreset is next-step. A row that ends an episode holds the true last observation; the step after it ignores that
environment's action and returns the first observation of the next episode with reward 0. Such a transition is a
dummy: `Step.valid` is false, and it belongs in no loss, no statistic and no count.
Shapes: N environments of the group, ... one observation.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.envs.packing import ActionPacker, Bools, ObsPacker
from trainers.envs.spec import EnvSpec
from trainers.envs.threads import NearbyThreads

__all__ = ["EnvGroup", "Step"]

Floats = NDArray[np.float32]


class Step(NamedTuple):
    """One step of several environments.

    Attributes:
        obs: float32 [N, O], or uint8 [N, ...]; where the episode ended, its true last observation.
        reward: float32 [N].
        terminated: bool [N], the episode ended in the task's own terms.
        truncated: bool [N], it was cut by a time limit. A failure on the very step of the limit counts as truncated.
        valid: bool [N], false where the action was ignored since the step before had ended the episode.
        score: float32 [N], the reward as the task's authors count it: Atari's before it is clipped.
        finished: bool [N], the end of an episode as they count it: in Atari the game, not the life.
        info: envpool's further arrays, as they come.
    """

    obs: NDArray[Any]
    reward: Floats
    terminated: Bools
    truncated: Bools
    valid: Bools
    score: Floats
    finished: Bools
    info: dict[str, Any]


class EnvGroup:
    """Own one envpool and keep what it does not: which rows are dummies, and time limits that it ignores.

    Args:
        pool: an envpool with the gymnasium interface, synchronous, one player.
        spec: its specification.
        num_envs: N.
        max_episode_steps: a limit to impose if the task does not; None leaves the limit to the task.
        threads: the pool's, where they shall work on the caller's core.
    """

    def __init__(
        self,
        pool: Any,
        spec: EnvSpec,
        num_envs: int,
        max_episode_steps: int | None = None,
        threads: NearbyThreads | None = None,
    ) -> None:
        self.num_envs = num_envs
        self._pool: Any = pool
        self._limit = max_episode_steps
        self._threads = threads or NearbyThreads()
        self._pack_obs = ObsPacker(spec.obs)
        self._actions = ActionPacker(spec, num_envs)
        self._obs: NDArray[Any] | None = None
        self._is_stepping = False
        self._done = np.zeros(num_envs, np.bool_)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._cut = np.zeros(num_envs, np.bool_)

    def reset(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Start a new episode everywhere."""
        assert not self._is_stepping, "reset between send and receive"
        obs, info = self._pool.reset()
        self._done = np.zeros(self.num_envs, np.bool_)
        self._elapsed[:] = 0
        self._cut[:] = False
        self._obs = self._pack_obs(obs, info, out)
        return self._obs

    def send(self, actions: NDArray[Any]) -> None:
        """Begin a step; envpool's threads work on it until `receive`."""
        if self._obs is None:
            raise RuntimeError("VectorEnv.step: got a step before the first reset; expected reset() first.")
        assert not self._is_stepping, "two sends without receive"
        self._threads.follow()
        self._pool.send(self._actions.pack(actions, self._obs, ~self._done))
        self._is_stepping = True

    def receive(self, out: NDArray[Any] | None = None) -> Step:
        """Wait for the step; its observations go into `out` if that is given."""
        obs, reward, terminated, truncated, info = self._pool.recv()
        self._is_stepping = False
        self._obs = self._pack_obs(obs, info, out)
        step = Step(self._obs, reward, terminated, truncated, ~self._done, reward, terminated | truncated, info)
        if self._limit is not None:
            step = self._impose_limit(step, self._limit)
        self._done = step.finished
        if "lives" in info:  # Atari, which may end episodes with a life, and clip rewards
            game_over = info["terminated"].astype(np.bool_) & step.terminated
            step = step._replace(score=info["reward"], finished=game_over | step.truncated)
        return step

    def render(self) -> NDArray[np.uint8]:
        """Pictures [N, height, width, 3] of the environments as they stand; needs the option render_mode."""
        picture: NDArray[np.uint8] = self._pool.render(np.arange(self.num_envs, dtype=np.int32))
        return picture

    def close(self) -> None:
        """Release envpool's threads; they end when nothing else holds the pool."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def _impose_limit(self, step: Step, limit: int) -> Step:
        """Cut episodes that have run past the limit: many tasks ignore the one they are given."""
        if self._cut.any():  # envpool took these rows further; the reset makes dummies of them
            rows = np.flatnonzero(self._cut).astype(np.int32)
            step.obs[rows] = self._pack_obs(*self._pool.reset(rows))
            step.reward[rows] = 0.0
            step.terminated[rows] = step.truncated[rows] = False
        self._elapsed = np.where(step.valid, self._elapsed + 1, 0)
        self._cut = (self._elapsed >= limit) & ~(step.terminated | step.truncated)
        step.truncated[self._cut] = True
        return step._replace(finished=step.terminated | step.truncated)
