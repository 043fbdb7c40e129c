"""envpool's arrays -> observations, and a learner's actions -> the array that envpool takes.

Shapes: N environments, O columns of an observation, A action dimensions, L flags of an action mask.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.envs.spec import EnvSpec
from trainers.errors import DivergenceError
from trainers.observations import Leaf, ObsLayout

__all__ = ["ActionPacker", "Bools", "ObsPacker"]

Bools = NDArray[np.bool_]


class ObsPacker:
    """Copies what envpool returns into one array, casting on the way.

    Args:
        layout: what the observation is made of.
    """

    def __init__(self, layout: ObsLayout) -> None:
        self._placed = layout.placed()
        self._only: Leaf | None = layout.leaves[0] if len(layout.leaves) == 1 else None
        self._shape = layout.shape
        self._dtype = np.uint8 if layout.is_image else np.float32

    def __call__(self, obs: Any, info: dict[str, Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Pack the observations of all environments, into `out` if it is given."""
        if self._only is not None:
            array = _leaf_of(obs, info, self._only)
            array = array.reshape(len(array), *self._shape)
            if out is None:
                return array.astype(self._dtype, copy=False)
            out[...] = array
            return out
        for leaf, columns in self._placed:
            array = _leaf_of(obs, info, leaf)
            if out is None:
                out = np.empty((len(array), *self._shape), self._dtype)
            out[:, columns] = array.reshape(len(array), leaf.size)
        assert out is not None
        return out


def _leaf_of(obs: Any, info: dict[str, Any], leaf: Leaf) -> NDArray[Any]:
    where: Any = obs if leaf.path[0] == "obs" else info
    for name in leaf.path[1:]:
        if not isinstance(where, dict):  # envpool unwraps a dict of one
            break
        where = where[name]
    array: NDArray[Any] = where
    return array


class ActionPacker:
    """Owns the one array that goes to C++: always the right shape, dtype and range, and never an illegal action.

    Args:
        spec: the task's.
        num_envs: N.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        action = spec.action
        self._task, self._action = spec.task, action
        self._buffer = np.zeros((num_envs, *action.native_shape), action.dtype)
        self._shape = (num_envs, *action.shape)
        self._low, self._high = action.low.astype(action.dtype), action.high.astype(action.dtype)
        self._sizes: Any = action.sizes[0] if action.kind == "discrete" else np.array(action.sizes)
        self._mask = spec.obs.mask

    def pack(self, actions: NDArray[Any], obs: NDArray[Any], needs_action: Bools) -> NDArray[Any]:
        """Check the actions and put them in envpool's form.

        Args:
            actions: [N] or [N, A].
            obs: [N, ...], what they were chosen on; holds the action mask of tasks that have one.
            needs_action: [N], false where envpool will ignore the action.

        Raises:
            ValueError: wrong shape, dtype or range, or an illegal action.
            DivergenceError: a number that is not finite.
        """
        is_continuous = self._action.kind == "continuous"
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in ("f" if is_continuous else "iu"):
            got = getattr(actions, "dtype", type(actions).__name__)
            raise self._refusal(f"dtype {got}", "floats" if is_continuous else "integers")
        if actions.shape != self._shape:
            raise self._refusal(f"shape {actions.shape}", f"{self._shape}")
        if is_continuous:
            self._pack_continuous(actions)
        else:
            self._pack_discrete(actions, obs, needs_action)
        return self._buffer

    def _pack_continuous(self, actions: NDArray[Any]) -> None:
        if not np.isfinite(actions).all():
            raise DivergenceError(
                f"{self._task} actions: got {_first_row(~np.isfinite(actions))} not finite; expected finite numbers. "
                "Nothing was stepped: the policy has diverged, lower the learning rate."
            )
        np.clip(actions, self._low, self._high, out=self._buffer.reshape(self._shape), casting="unsafe")

    def _pack_discrete(self, actions: NDArray[Any], obs: NDArray[Any], needs_action: Bools) -> None:
        wrong = (actions < 0) | (actions >= self._sizes)
        if wrong.any():
            raise self._refusal(f"{_first_row(wrong)} out of range", f"0 to {np.max(self._sizes) - 1}")
        if self._mask is not None:
            self._check_legal(actions, obs[:, self._mask], needs_action)
        if self._action.native_sizes:
            np.stack(np.unravel_index(actions, self._action.native_sizes), -1, out=self._buffer, casting="unsafe")
        else:
            np.copyto(self._buffer, actions, casting="unsafe")

    def _check_legal(self, actions: NDArray[Any], mask_NL: NDArray[Any], needs_action: Bools) -> None:
        mask_NAL = mask_NL.reshape(len(mask_NL), -1, self._action.sizes[0])
        chosen = np.take_along_axis(mask_NAL, actions.reshape(len(actions), -1, 1), 2)
        # where nothing is legal the task has an answer of its own, and the policy no choice
        wrong = (chosen[..., 0] == 0) & needs_action[:, None] & (mask_NAL != 0).any(2)
        if wrong.any():
            raise self._refusal(f"{_first_row(wrong)} illegal under its mask", "legal actions")

    def _refusal(self, got: str, rule: str) -> ValueError:
        return ValueError(f"{self._task} actions: got {got}; expected {rule}. Nothing was stepped.")


def _first_row(wrong: Bools) -> str:
    return f"environment {int(np.argwhere(wrong)[0, 0])}"
