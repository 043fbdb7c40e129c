"""From the name of a task to its simulator, or to the reason why there is none."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from trainers.errors import TaskError
from trainers.observations import ObsLayout
from trainers.simulators.acrobot import Acrobot
from trainers.simulators.bin_pack import BinPack
from trainers.simulators.cart_pole import CartPole
from trainers.simulators.catch import Catch
from trainers.simulators.game_2048 import Game2048
from trainers.simulators.knapsack import Knapsack
from trainers.simulators.maze import Maze
from trainers.simulators.mountain_car import MountainCar, MountainCarContinuous
from trainers.simulators.mujoco import MUJOCO_TASKS, MujocoModel
from trainers.simulators.pendulum import Pendulum
from trainers.simulators.protocol import Model
from trainers.simulators.rubiks_cube import RubiksCube
from trainers.simulators.simulator import Simulator
from trainers.simulators.sliding_tile import SlidingTile
from trainers.simulators.snake import Snake
from trainers.simulators.sokoban import Sokoban
from trainers.simulators.tabular import TabularModel
from trainers.simulators.toy_text import CLIFF_STATES, TAXI_STATES, cliff_walking, frozen_lake, taxi
from trainers.simulators.tsp import Tsp

__all__ = ["SIMULATED_TASKS", "Setting", "make_simulator"]

WIDE_SPEED: Final = 1000.0
"""No joint of a walker or hopper moves so fast; envpool cuts off at 10, which they pass all the time."""


@dataclass(frozen=True)
class Setting:
    """A task as it was asked for.

    Attributes:
        task: envpool's name.
        layout: of its observations.
        config: envpool's configuration of it, with its defaults.
        device: where the states shall lie.
    """

    task: str
    layout: ObsLayout
    config: Mapping[str, Any]
    device: torch.device


@dataclass(frozen=True)
class Entry:
    """What is known of a task's model.

    Attributes:
        build: makes it.
        heeds_limit: the environment itself truncates at `max_episode_steps`; otherwise only where that is asked for.
        must_be: options that would change the rules in a way that the model does not follow, and the values that
            it does follow.
        clips_speed: its observations hold speeds cut off at `velocity_min` and `velocity_max`.
    """

    build: Callable[[Setting], Model]
    heeds_limit: bool = True
    must_be: Mapping[str, Any] = field(default_factory=dict)
    clips_speed: bool = False


def make_simulator(
    task: str,
    layout: ObsLayout,
    config: Mapping[str, Any],
    device: torch.device,
    max_episode_steps: int | None = None,
    reward_scale: float = 1.0,
) -> Simulator:
    """Build the simulator of a task.

    Args:
        task: envpool's name.
        layout: of its observations.
        config: envpool's configuration of the task, with its defaults.
        device: where the states shall lie.
        max_episode_steps: a limit that is imposed on the task from outside.
        reward_scale: what rewards are multiplied by.

    Raises:
        TaskError: there is no model of it, or none that follows its options.
        MissingError: the model needs a package that is not installed.
    """
    entry = ENTRIES.get(task.removeprefix("Jumanji/"))
    if entry is None:
        raise _unknown(task)
    for name, value in entry.must_be.items():
        if config[name] != value:
            raise TaskError(
                f"environment.options: got {name}={config[name]!r}; expected {value!r}, which is what the model of "
                f"{task} follows. Leave it out, or train with `ppo`."
            )
    if entry.clips_speed:
        _check_speeds(task, config)
    limits = [max_episode_steps] if max_episode_steps else []
    if entry.heeds_limit:
        limits.append(config["max_episode_steps"])
    return Simulator(entry.build(Setting(task, layout, config, device)), min(limits, default=None), reward_scale)


def _check_speeds(task: str, config: Mapping[str, Any]) -> None:
    """Refuse bounds that a speed may exceed: the search would start from the speed that is shown, not from the true."""
    low, high = config["velocity_min"], config["velocity_max"]
    if low > -WIDE_SPEED or high < WIDE_SPEED:
        raise TaskError(
            f"environment.options: got velocity_min={low:g} and velocity_max={high:g}; expected at most "
            f"{-WIDE_SPEED:g} and at least {WIDE_SPEED:g}: observations of {task} hold speeds cut off there, and the "
            "model can go on only from true ones. "
            f"Set environment.options to {{velocity_min: {-WIDE_SPEED:g}, velocity_max: {WIDE_SPEED:g}}}, "
            "or train with `ppo`."
        )


def _unknown(task: str) -> TaskError:
    reason = "no exact model of it is known, and search needs one that starts from any live observation"
    near = difflib.get_close_matches(task, ENTRIES, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return TaskError(
        f"environment.task: got {task!r}; expected a task with a simulator: {reason}.{hint} "
        f"There are {', '.join(SIMULATED_TASKS)}. Train with `ppo` otherwise."
    )


def _rubiks_cube(time_limit: int) -> Callable[[Setting], Model]:
    return lambda setting: RubiksCube(setting.layout, setting.device, time_limit)


def _frozen_lake(setting: Setting) -> Model:
    size = 8 if setting.config["size"] == 8 else 4
    return TabularModel(frozen_lake(size), size * size, 4, setting.device, is_slippery=True)


def _cliff_walking(setting: Setting) -> Model:
    return TabularModel(cliff_walking, CLIFF_STATES, 4, setting.device, is_slippery=setting.config["is_slippery"])


def _mujoco(name: str) -> Entry:
    task = MUJOCO_TASKS[name]
    must_be: dict[str, Any] = {"frame_stack": 1}
    if task.num_hidden:
        must_be["exclude_current_positions_from_observation"] = True
    if name.startswith("Ant"):
        must_be["use_contact_force"] = False
    if name.startswith("InvertedPendulum"):
        must_be["healthy_reward"] = 1.0  # the environment knows the option, and pays 1 whatever it says
    return Entry(lambda setting: MujocoModel(task, setting.config), must_be=must_be, clips_speed=task.clips_speed)


ENTRIES: Final[dict[str, Entry]] = {
    "Acrobot-v1": Entry(lambda _: Acrobot()),
    "BinPack-v2": Entry(lambda setting: BinPack(setting.layout), False, {"bin_pack_replay_ems_x1": ""}),
    "CartPole-v0": Entry(lambda _: CartPole()),
    "CartPole-v1": Entry(lambda _: CartPole()),
    "Catch-v0": Entry(lambda setting: Catch(setting.config["height"], setting.config["width"]), False),
    "CliffWalking-v0": Entry(_cliff_walking, False),
    "CliffWalking-v1": Entry(_cliff_walking, False),
    "CliffWalkingSlippery-v1": Entry(_cliff_walking, False),
    "FrozenLake-v1": Entry(_frozen_lake),
    "FrozenLake8x8-v1": Entry(_frozen_lake),
    "Game2048-v1": Entry(
        lambda setting: Game2048(setting.layout, setting.device),
        False,
        {"game2048_replay_boards": "", "game2048_add_random_cell": True},
    ),
    "Knapsack-v1": Entry(lambda setting: Knapsack(setting.layout, setting.config["knapsack_total_budget"]), False),
    "Maze-v0": Entry(lambda setting: Maze(setting.layout, setting.device), False),
    "MountainCar-v0": Entry(lambda _: MountainCar()),
    "MountainCarContinuous-v0": Entry(lambda _: MountainCarContinuous()),
    "Pendulum-v0": Entry(lambda _: Pendulum()),
    "Pendulum-v1": Entry(lambda _: Pendulum()),
    "RubiksCube-partly-scrambled-v0": Entry(_rubiks_cube(20), False),
    "RubiksCube-v0": Entry(_rubiks_cube(200), False),
    "SlidingTilePuzzle-v0": Entry(lambda setting: SlidingTile(setting.layout, setting.device), False),
    "Snake-v1": Entry(lambda setting: Snake(setting.layout, setting.device), False),
    "Sokoban-v0": Entry(lambda setting: Sokoban(setting.layout, setting.device)),
    "TSP-v1": Entry(lambda setting: Tsp(setting.layout), False, {"tsp_distance_matrix": "", "tsp_replay_rewards": ""}),
    "Taxi-v3": Entry(lambda setting: TabularModel(taxi, TAXI_STATES, 6, setting.device)),
    **{name: _mujoco(name) for name in MUJOCO_TASKS},
}

SIMULATED_TASKS: Final = tuple(sorted(ENTRIES))
