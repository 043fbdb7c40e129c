"""MuJoCo tasks, by MuJoCo itself: `mujoco.rollout` steps a batch of states in C++ threads.

An observation holds all positions but those that only shift the origin, and all speeds; a state is all of them, with
the shift at 0. Hopper and Walker2d show speeds cut off at `velocity_min` and `velocity_max`: a state is restored only
where these are wide, and `registry` refuses others. What an observation does not hold is the solver's warm start: Ant
differs by 2e-7 for it. Ant's environment measures speed by the torso's place of one integrator stage before; its reward
differs for that.
Shapes: B batch, Q positions, V speeds, U controls, F frames of a step.
Source: sail-sg/envpool, envpool/mujoco/gym/*.h; the assets are envpool's.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainers.errors import MissingError
from trainers.simulators.protocol import Outcome

__all__ = ["MUJOCO_TASKS", "MujocoModel", "MujocoTask"]

Config = Mapping[str, Any]

MOST_THREADS: Final = 16


@dataclass(frozen=True)
class MujocoTask:
    """What distinguishes one task from another.

    Attributes:
        num_hidden: positions in front that the observation leaves out.
        clips_speed: the observation's speeds are held within `velocity_min` and `velocity_max`; what lies outside
            cannot be restored.
        runs: the reward counts the speed along the first position, and the cost of controls.
        is_healthy: (configuration, positions, speeds) -> bool [B]; None where the task has no such end.
    """

    num_hidden: int = 0
    clips_speed: bool = False
    runs: bool = True
    is_healthy: Callable[[Config, Tensor, Tensor], Tensor] | None = None


class MujocoModel:
    """One task; every step goes through the host.

    Args:
        task: which.
        config: envpool's configuration of it, with its defaults.

    Raises:
        MissingError: mujoco is not installed.
    """

    num_noise = 0
    is_on_host = True

    def __init__(self, task: MujocoTask, config: Config) -> None:
        self._task, self._config = task, config
        self._frames = int(config["frame_skip"])
        stem = Path(str(config["xml_file"])).stem
        self._physics = _Physics(Path(config["base_path"]) / "mujoco" / "assets_gym" / f"{stem}_envpool.xml")

    def restore(self, obs_BO: Tensor) -> Tensor:
        """Put the hidden positions, as 0, before what is seen, and take speeds as they are shown; float64."""
        return torch.nn.functional.pad(obs_BO.double(), (self._task.num_hidden, 0))

    def observe(self, state_BS: Tensor) -> Tensor:
        """Leave the hidden positions out."""
        if not self._task.clips_speed:
            return state_BS[:, self._task.num_hidden :].float()
        position_BQ, speed_BV = self._split(state_BS)
        clipped_BV = speed_BV.clamp(self._config["velocity_min"], self._config["velocity_max"])
        return torch.cat([position_BQ[:, self._task.num_hidden :], clipped_BV], 1).float()

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Hold the controls for some frames of physics; they are clipped as the environment clips them."""
        control_BU = self._physics.clip(action.double())
        next_BS = self._physics.advance(state_BS, control_BU, self._frames)
        position_BQ, speed_BV = self._split(next_BS)
        if self._task.is_healthy is None:
            is_healthy_B = torch.ones_like(position_BQ[:, 0], dtype=torch.bool)
        else:
            is_healthy_B = self._task.is_healthy(self._config, position_BQ, speed_BV)
        terminates = self._config.get("terminate_when_unhealthy", True)
        reward_B = self._healthy_reward(is_healthy_B, bool(terminates))
        if self._task.runs:
            seconds = self._frames * self._physics.time_step
            velocity_B = (next_BS[:, 0] - state_BS[:, 0]) / seconds
            reward_B = reward_B + velocity_B * self._config["forward_reward_weight"]
            reward_B = reward_B - self._config["ctrl_cost_weight"] * control_BU.square().sum(1)
        return Outcome(next_BS, reward_B.float(), ~is_healthy_B & bool(terminates))

    def _healthy_reward(self, is_healthy_B: Tensor, terminates: bool) -> Tensor:
        """Before version 5 the step that ends the episode is rewarded, too."""
        if self._task.runs:
            always = bool(self._config.get("legacy_healthy_reward", False)) and terminates
        else:
            always = not self._config["reward_if_not_terminated"]
        earned_B = torch.ones_like(is_healthy_B) if always else is_healthy_B
        return earned_B * float(self._config.get("healthy_reward", 0.0))

    def _split(self, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        return state_BS[:, : self._physics.num_positions], state_BS[:, self._physics.num_positions :]


class _Physics:
    """A compiled MuJoCo model with as many scratch copies of its data as threads."""

    def __init__(self, path: Path) -> None:
        try:
            import mujoco
            from mujoco import rollout
        except ImportError:
            raise MissingError(
                "mujoco is not installed, and it is the model that search needs for this task. "
                "Install it: pip install 'rltelemetry[mujoco]'"
            ) from None
        num_threads = min(os.cpu_count() or 1, MOST_THREADS)
        self._model: Any = mujoco.MjModel.from_xml_path(str(path))
        self._data = [mujoco.MjData(self._model) for _ in range(num_threads)]
        self._pool: Any = rollout.Rollout(nthread=num_threads)
        self.num_positions = int(self._model.nq)
        self.time_step = float(self._model.opt.timestep)
        self._low_U, self._high_U = torch.from_numpy(self._model.actuator_ctrlrange.copy()).unbind(1)

    def clip(self, control_BU: Tensor) -> Tensor:
        """Hold controls within their ranges."""
        return control_BU.clamp(self._low_U.to(control_BU.device), self._high_U.to(control_BU.device))

    def advance(self, state_BS: Tensor, control_BU: Tensor, num_frames: int) -> Tensor:
        """Step every state, with the same controls in each frame."""
        start = torch.nn.functional.pad(state_BS, (1, 0)).cpu().numpy()  # time comes first
        control = control_BU.cpu().numpy()[:, None].repeat(num_frames, 1)
        states, _ = self._pool.rollout(self._model, self._data, start, control)
        return torch.from_numpy(states[:, -1, 1:].copy()).to(state_BS.device)


def _hopper_is_healthy(config: Config, position_BQ: Tensor, speed_BV: Tensor) -> Tensor:
    rest = torch.cat([position_BQ[:, 2:], speed_BV], 1)
    is_calm_B: Tensor = ((rest > config["healthy_state_min"]) & (rest < config["healthy_state_max"])).all(1)
    height_B, angle_B = position_BQ[:, 1], position_BQ[:, 2]
    is_upright_B: Tensor = (angle_B > config["healthy_angle_min"]) & (angle_B < config["healthy_angle_max"])
    is_high_B: Tensor = height_B > config["healthy_z_min"]
    return is_calm_B & is_upright_B & is_high_B


def _walker_is_healthy(config: Config, position_BQ: Tensor, speed_BV: Tensor) -> Tensor:
    is_upright_B = _within(position_BQ[:, 2], config["healthy_angle_min"], config["healthy_angle_max"])
    return is_upright_B & _within(position_BQ[:, 1], config["healthy_z_min"], config["healthy_z_max"])


def _ant_is_healthy(config: Config, position_BQ: Tensor, speed_BV: Tensor) -> Tensor:
    return _within(position_BQ[:, 2], config["healthy_z_min"], config["healthy_z_max"]) & _are_finite(
        position_BQ, speed_BV
    )


def _pendulum_is_healthy(config: Config, position_BQ: Tensor, speed_BV: Tensor) -> Tensor:
    return _within(position_BQ[:, 1], config["healthy_z_min"], config["healthy_z_max"]) & _are_finite(
        position_BQ, speed_BV
    )


def _within(number_B: Tensor, low: float, high: float) -> Tensor:
    return (number_B >= low) & (number_B <= high)


def _are_finite(position_BQ: Tensor, speed_BV: Tensor) -> Tensor:
    return position_BQ.isfinite().all(1) & speed_BV.isfinite().all(1)


MUJOCO_TASKS: Final[dict[str, MujocoTask]] = {
    "Ant-v4": MujocoTask(num_hidden=2, is_healthy=_ant_is_healthy),
    "HalfCheetah-v4": MujocoTask(num_hidden=1),
    "HalfCheetah-v5": MujocoTask(num_hidden=1),
    "Hopper-v4": MujocoTask(num_hidden=1, clips_speed=True, is_healthy=_hopper_is_healthy),
    "Hopper-v5": MujocoTask(num_hidden=1, clips_speed=True, is_healthy=_hopper_is_healthy),
    "InvertedPendulum-v4": MujocoTask(runs=False, is_healthy=_pendulum_is_healthy),
    "InvertedPendulum-v5": MujocoTask(runs=False, is_healthy=_pendulum_is_healthy),
    "Swimmer-v4": MujocoTask(num_hidden=2),
    "Swimmer-v5": MujocoTask(num_hidden=2),
    "Walker2d-v4": MujocoTask(num_hidden=1, clips_speed=True, is_healthy=_walker_is_healthy),
    "Walker2d-v5": MujocoTask(num_hidden=1, clips_speed=True, is_healthy=_walker_is_healthy),
}
"""Ant-v5 is not here: it shows contact forces, which the next state does not hold."""
