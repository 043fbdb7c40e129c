"""What a task looks like to a learner, read from envpool's array specifications.

The gymnasium spaces that envpool offers are not used: they hide dtypes, warn while they are built, and name the
smallest positive number where they mean "no lower bound".
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.distributions import ActionKind
from trainers.errors import TaskError

__all__ = ["ActionSpec", "EnvSpec", "Leaf", "read_spec"]

SUPPORTED = (
    "Supported are flat (or nested) numeric observations without images or action masks, "
    "and discrete, multi-discrete or continuous actions of one player"
)
_SMALLEST_IMAGE_SIDE = 32
"""Smaller grids of bytes (MiniGrid, Sokoban) are boards, which a vector still describes."""


class Leaf(NamedTuple):
    """One array of the observation: where it lies in envpool's nested dict, and its shape for one environment."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Numbers it adds to the flat observation."""
        return math.prod(self.shape)


class ActionSpec(NamedTuple):
    """What an action is.

    Attributes:
        kind: discrete, multi_discrete or continuous.
        sizes: (number of actions,), actions per dimension, or (dimensions,).
        shape: of one environment's action as the learner gives it: () or (dimensions,).
        native_shape: of the same action as envpool takes it.
        dtype: what envpool takes.
        low: least value per dimension, -inf where envpool names none; continuous only.
        high: likewise.
    """

    kind: ActionKind
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    native_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class EnvSpec(NamedTuple):
    """A task as the learner sees it: a float32 vector in, one action out.

    Attributes:
        task: envpool's name.
        obs_size: O, numbers of a flat observation.
        leaves: the arrays it is made of, in order.
        action: what an action is.
        reward_threshold: the return at which the task counts as solved, if its authors named one.
    """

    task: str
    obs_size: int
    leaves: tuple[Leaf, ...]
    action: ActionSpec
    reward_threshold: float | None


def read_spec(task: str, spec: Any) -> EnvSpec:
    """Read envpool's specification of a task.

    Raises:
        TaskError: the task has something that is not supported.
    """
    if spec.config.max_num_players > 1:
        raise _unsupported(task, f"{spec.config.max_num_players} players")
    states = spec.state_array_spec
    masks = [name for name in states if name.endswith(("action_mask", "legal_action_mask"))]
    if masks:
        raise _unsupported(task, f"an action mask ({masks[0]})")
    leaves = tuple(_read_leaf(task, name, array) for name, array in states.items() if name.startswith("obs"))
    if len(leaves) == 1 and leaves[0].shape == () and leaves[0].dtype.kind in "iu":
        raise _unsupported(task, f"an observation that is one of {int(np.max(states['obs'].maximum)) + 1} symbols")
    actions = [array for name, array in spec.action_array_spec.items() if not name.endswith("env_id")]
    if len(actions) != 1:
        raise _unsupported(task, f"an action made of {len(actions)} arrays")
    size = sum(leaf.size for leaf in leaves)
    return EnvSpec(task, size, leaves, _read_action(task, actions[0]), spec.reward_threshold)


def _read_leaf(task: str, name: str, array: Any) -> Leaf:
    shape = _single(array.shape)
    leaf = Leaf(tuple(name.replace(":", ".").split(".")[1:]), shape, np.dtype(array.dtype))
    if leaf.dtype == np.uint8 and len(shape) == 3 and sorted(shape)[1] >= _SMALLEST_IMAGE_SIDE:
        raise _unsupported(task, f"an image of shape {shape}")
    if leaf.dtype.kind not in "biuf":
        raise _unsupported(task, f"an observation of dtype {leaf.dtype}")
    return leaf


def _read_action(task: str, array: Any) -> ActionSpec:
    shape, dtype = _single(array.shape), np.dtype(array.dtype)
    low = np.broadcast_to(np.asarray(array.minimum, np.float64), shape)
    high = np.broadcast_to(np.asarray(array.maximum, np.float64), shape)
    if dtype.kind == "f":
        low, high = _true_bounds(low.reshape(-1), high.reshape(-1), np.finfo(dtype))
        return ActionSpec("continuous", (low.size,), (low.size,), shape, dtype, low, high)
    if dtype.kind not in "iu" or len(shape) > 1 or np.any(low != 0):
        raise _unsupported(task, f"an action of shape {shape}, dtype {dtype}, from {array.minimum}")
    sizes = tuple(int(top) + 1 for top in high.reshape(-1))
    return ActionSpec("multi_discrete" if shape else "discrete", sizes, shape, shape, dtype, low, high)


def _true_bounds(
    low: NDArray[np.float64], high: NDArray[np.float64], info: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Undo envpool's confusion of the smallest positive number with the lowest one."""
    lies = (low == float(info.tiny)) | (low <= float(info.min))
    return np.where(lies, -np.inf, low), np.where(high >= float(info.max), np.inf, high)


def _single(shape: list[int]) -> tuple[int, ...]:
    """The shape without the players' dimension, which is written as -1."""
    return tuple(shape[1:] if shape and shape[0] == -1 else shape)


def _unsupported(task: str, what: str) -> TaskError:
    return TaskError(f"environment.task: got {task!r}, which has {what}; expected a task without it. {SUPPORTED}.")
