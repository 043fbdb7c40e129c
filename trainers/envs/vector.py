"""N environments that step together: checked actions in, flat float32 observations out.

Autoreset is next-step. A row that ends an episode holds the true last observation; the step after it ignores that
environment's action and returns the first observation of the next episode with reward 0. Such a transition is a
dummy: `Step.valid` is false, and it belongs in no loss, no statistic and no count.
Shapes: N envs, O observation size.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.envs.spec import EnvSpec, Leaf
from trainers.errors import DivergenceError

__all__ = ["Step", "VectorEnv"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


class Step(NamedTuple):
    """One step of all environments.

    Attributes:
        obs: float32 [N, O]; where the episode ended, its true last observation.
        reward: float32 [N].
        terminated: bool [N], the episode ended in the task's own terms.
        truncated: bool [N], it was cut by a time limit. A failure on the very step of the limit counts as truncated.
        valid: bool [N], false where the action was ignored since the step before had ended the episode.
        info: envpool's further arrays, as they come.
    """

    obs: Floats
    reward: Floats
    terminated: Bools
    truncated: Bools
    valid: Bools
    info: dict[str, Any]


class VectorEnv:
    """Own one envpool and keep what it does not: which rows are dummies, and time limits that it ignores.

    Args:
        pool: an envpool with the gymnasium interface, synchronous, one player.
        spec: its specification.
        num_envs: N.
        max_episode_steps: a limit to impose if the task does not; None leaves the limit to the task.
    """

    def __init__(self, pool: Any, spec: EnvSpec, num_envs: int, max_episode_steps: int | None = None) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._pool: Any = pool
        self._limit = max_episode_steps
        self._flatten = _Flattener(spec.leaves, num_envs)
        self._actions = _ActionBuffer(spec, num_envs)
        self._done: Bools | None = None
        self._elapsed = np.zeros(num_envs, np.int64)
        self._cut = np.zeros(num_envs, np.bool_)

    def reset(self) -> Floats:
        """Start a new episode everywhere; returns observations [N, O]."""
        obs, _ = self._pool.reset()
        self._done = np.zeros(self.num_envs, np.bool_)
        self._elapsed[:] = 0
        self._cut[:] = False
        return self._flatten(obs)

    def step(self, actions: NDArray[Any]) -> Step:
        """Take one step everywhere.

        Args:
            actions: [N] or [N, dimensions]; integers within range, or finite floats, which are clipped to the
                task's bounds.

        Raises:
            ValueError: wrong shape, dtype or range, which envpool takes silently or aborts the process for.
            DivergenceError: a number that is not finite: the simulation would go on with NaN rewards.
        """
        if self._done is None:
            raise RuntimeError("VectorEnv.step: got a step before the first reset; expected reset() first.")
        valid = ~self._done
        raw_obs, reward, terminated, truncated, info = self._pool.step(self._actions.fill(actions))
        step = Step(self._flatten(raw_obs), reward, terminated, truncated, valid, info)
        if self._limit is not None:
            self._impose_limit(step, self._limit)
        self._done = terminated | truncated
        return step

    def close(self) -> None:
        """Release envpool's threads; they end when nothing else holds the pool."""
        self._pool.close()
        self._pool = None

    def _impose_limit(self, step: Step, limit: int) -> None:
        """Cut episodes that have run past the limit: many tasks ignore the one they are given."""
        if self._cut.any():  # envpool took these rows further; the reset makes dummies of them
            rows = np.flatnonzero(self._cut).astype(np.int32)
            obs, _ = self._pool.reset(rows)
            step.obs[rows] = _Flattener(self.spec.leaves, rows.size)(obs)
            step.reward[rows] = 0.0
            step.terminated[rows] = step.truncated[rows] = False
        self._elapsed = np.where(step.valid, self._elapsed + 1, 0)
        self._cut = (self._elapsed >= limit) & ~(step.terminated | step.truncated)
        step.truncated[self._cut] = True


class _Flattener:
    """One float32 row per environment out of an array or a nested dict of arrays."""

    def __init__(self, leaves: tuple[Leaf, ...], num_rows: int) -> None:
        self._leaves = leaves
        self._shape = (num_rows, sum(leaf.size for leaf in leaves))

    def __call__(self, obs: Any) -> Floats:
        if len(self._leaves) == 1:
            only: Floats = _leaf_of(obs, self._leaves[0]).reshape(self._shape).astype(np.float32, copy=False)
            return only
        flat, start = np.empty(self._shape, np.float32), 0
        for leaf in self._leaves:
            flat[:, start : start + leaf.size] = _leaf_of(obs, leaf).reshape(-1, leaf.size)
            start += leaf.size
        return flat


def _leaf_of(obs: Any, leaf: Leaf) -> NDArray[Any]:
    for name in leaf.path:
        if not isinstance(obs, dict):  # envpool unwraps a dict of one
            break
        obs = obs[name]
    array: NDArray[Any] = obs
    return array


class _ActionBuffer:
    """The one array that goes to C++: always the right shape, dtype and range."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        action = spec.action
        self._task, self._kind = spec.task, action.kind
        self._buffer = np.zeros((num_envs, *action.native_shape), action.dtype)
        self._view = self._buffer.reshape(num_envs, *action.shape)
        self._low, self._high = action.low.astype(action.dtype), action.high.astype(action.dtype)
        self._sizes: Any = action.sizes[0] if action.kind == "discrete" else np.array(action.sizes)

    def fill(self, actions: NDArray[Any]) -> NDArray[Any]:
        expected = "fi" if self._kind == "continuous" else "iu"
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in expected:
            got = getattr(actions, "dtype", type(actions).__name__)
            raise self._refusal(f"dtype {got}", "floats" if self._kind == "continuous" else "integers")
        if actions.shape != self._view.shape:
            raise self._refusal(f"shape {actions.shape}", f"{self._view.shape}")
        if self._kind == "continuous":
            if not np.isfinite(actions).all():
                where = _first_row(~np.isfinite(actions))
                raise DivergenceError(
                    f"{self._task} actions: got {where} not finite; expected finite numbers. Nothing was stepped: "
                    "the policy has diverged, lower the learning rate."
                )
            np.clip(actions, self._low, self._high, out=self._view, casting="unsafe")
        else:
            wrong = (actions < 0) | (actions >= self._sizes)
            if wrong.any():
                raise self._refusal(f"{_first_row(wrong)} out of range", f"0 to {np.max(self._sizes) - 1}")
            np.copyto(self._view, actions, casting="unsafe")
        return self._buffer

    def _refusal(self, got: str, rule: str) -> ValueError:
        return ValueError(f"{self._task} actions: got {got}; expected {rule}. Nothing was stepped.")


def _first_row(wrong: Bools) -> str:
    return f"environment {int(np.argwhere(wrong)[0, 0])}"
