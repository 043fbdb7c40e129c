"""What a task looks like to a learner, read from envpool's array specifications.

The gymnasium spaces that envpool offers are not used: they hide dtypes, warn while they are built, and name the
smallest positive number where they mean "no lower bound".
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.distributions import ActionKind
from trainers.errors import TaskError
from trainers.observations import Leaf, ObsLayout

__all__ = ["ActionSpec", "EnvSpec", "read_spec"]

SUPPORTED: Final = (
    "Supported are single-player tasks with an image, or with any (nested) arrays of numbers, as observation, and "
    "discrete, multi-discrete or continuous actions"
)
SMALLEST_IMAGE_SIDE: Final = 32
"""Smaller grids of bytes (MiniGrid, Sokoban) are boards: no convolution of stride 4 would leave anything of them."""
SMALLEST_CONVOLVED_SIDE: Final = 36
"""Of an image, that the last of the three convolutions has something to see."""
MOST_SYMBOLS: Final = 40
"""Integers with more values than this are taken for quantities (step counts, prices), not for symbols."""
TRUE_BOUNDS: Final[dict[tuple[str, ...], tuple[int, int]]] = {
    ("obs", "board"): (0, 17),  # 2048: exponents, up to the largest tile that the game can reach
    ("obs", "image"): (0, 10),  # MiniGrid: types of objects, colours, states
}
"""Of leaves of integers for which envpool names all that their dtype can hold."""


class ActionSpec(NamedTuple):
    """What an action is.

    Attributes:
        kind: discrete, multi_discrete or continuous, for the learner.
        sizes: (number of actions,), actions per dimension, or (dimensions,).
        shape: of one environment's action as the learner gives it: () or (dimensions,).
        native_shape: of the same action as envpool takes it.
        native_sizes: where the learner's one choice stands for several of envpool's, how many each of these has:
            their mask speaks of combinations, so that they can only be chosen together. Else ().
        dtype: what envpool takes.
        low: least value per dimension, -inf where envpool names none; continuous only.
        high: likewise.
    """

    kind: ActionKind
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    native_shape: tuple[int, ...]
    native_sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class EnvSpec(NamedTuple):
    """A task as the learner sees it: one tensor in, one action out.

    Attributes:
        task: envpool's name.
        obs: what an observation is made of; the action mask is in it.
        action: what an action is.
        reward_threshold: the return at which the task counts as solved, if its authors named one.
    """

    task: str
    obs: ObsLayout
    action: ActionSpec
    reward_threshold: float | None


def read_spec(task: str, spec: Any) -> EnvSpec:
    """Read envpool's specification of a task.

    Raises:
        TaskError: the task has something that is not supported.
    """
    if spec.config.max_num_players > 1:
        raise _unsupported(task, f"{spec.config.max_num_players} players")
    arrays = {
        tuple(name.replace(":", ".").split(".")): array
        for name, array in spec.state_array_spec.items()
        if name.startswith("obs") or name == "info:legal_action_mask"
    }
    leaves = tuple(_read_leaf(task, path, array, is_only=len(arrays) == 1) for path, array in arrays.items())
    if len(leaves) > 1 and any(leaf.kind == "image" for leaf in leaves):
        raise _unsupported(task, "an image beside other observations")
    actions = [array for name, array in spec.action_array_spec.items() if not name.endswith("env_id")]
    if len(actions) != 1:
        raise _unsupported(task, f"an action made of {len(actions)} arrays")
    action = _read_action(task, actions[0])
    masks = [leaf for leaf in leaves if leaf.kind == "mask"]
    if masks:
        action = _under_mask(task, action, masks)
    return EnvSpec(task, ObsLayout(leaves), action, spec.reward_threshold)


def _read_leaf(task: str, path: tuple[str, ...], array: Any, *, is_only: bool) -> Leaf:
    shape, dtype = _single(array.shape), np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        raise _unsupported(task, f"an observation of dtype {dtype}")
    if path[-1] in {"action_mask", "legal_action_mask"}:
        return Leaf(path, shape, "mask")
    if dtype == np.uint8 and len(shape) == 3 and max(shape) >= SMALLEST_IMAGE_SIDE:
        _check_sides(task, shape)
        return Leaf(path, shape, "image", 0, 255)
    if dtype.kind not in "iu":
        return Leaf(path, shape)
    low, high = float(np.min(array.minimum)), float(np.max(array.maximum))
    info = np.iinfo(dtype)
    if (low, high) == (info.min, info.max):
        low, high = TRUE_BOUNDS.get(path, (low, high))
    is_symbol = 1 < high - low < MOST_SYMBOLS or (is_only and shape == ())
    if (low, high) == (info.min, info.max) and info.bits > 16:
        return Leaf(path, shape)  # no bounds at all
    return Leaf(path, shape, "symbol" if is_symbol else "number", low, high)


def _check_sides(task: str, shape: tuple[int, ...]) -> None:
    """Refuse an image of which the convolutions would leave nothing; channels are its first or last, and fewer."""
    height, width = shape[:-1] if shape[-1] < shape[0] else shape[1:]
    if min(height, width) < SMALLEST_CONVOLVED_SIDE:
        least = f"{SMALLEST_CONVOLVED_SIDE} x {SMALLEST_CONVOLVED_SIDE}"
        raise TaskError(
            f"environment.task: got {task!r} with images of {height} x {width}; expected at least {least}, which the "
            "convolutions need. Choose a larger image with --environment.options, or another task."
        )


def _read_action(task: str, array: Any) -> ActionSpec:
    shape, dtype = _single(array.shape), np.dtype(array.dtype)
    low = np.broadcast_to(np.asarray(array.minimum, np.float64), shape)
    high = np.broadcast_to(np.asarray(array.maximum, np.float64), shape)
    if dtype.kind == "f":
        low, high = _true_bounds(low.reshape(-1), high.reshape(-1), np.finfo(dtype))
        return ActionSpec("continuous", (low.size,), (low.size,), shape, (), dtype, low, high)
    if dtype.kind not in "iu" or len(shape) > 1 or np.any(low != 0):
        raise _unsupported(task, f"an action of shape {shape}, dtype {dtype}, from {array.minimum}")
    sizes = tuple(int(top) + 1 for top in high.reshape(-1))
    return ActionSpec("multi_discrete" if shape else "discrete", sizes, shape, shape, (), dtype, low, high)


def _under_mask(task: str, action: ActionSpec, masks: list[Leaf]) -> ActionSpec:
    """Fit the action to its mask: one flag per choice, per choice of each dimension, or per combination."""
    shape = masks[0].shape
    if len(masks) == 1 and action.kind == "discrete" and shape == action.sizes:
        return action
    if len(masks) == 1 and action.kind == "multi_discrete":
        if shape == action.sizes:
            return action._replace(
                kind="discrete", sizes=(math.prod(action.sizes),), shape=(), native_sizes=action.sizes
            )
        if {(len(action.sizes), size) for size in action.sizes} == {shape}:
            return action
    shapes = ", ".join(str(leaf.shape) for leaf in masks)
    raise _unsupported(task, f"an action mask of shape {shapes} for {action.kind} actions {action.sizes}")


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
