"""MountainCar: an underpowered car that must swing up a hill, with three gears or with a continuous force.

Shapes: B batch; a state is the observation, (position, velocity).
Source: Moore 1990; sail-sg/envpool, envpool/classic_control/mountain_car.h and mountain_car_continuous.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome

__all__ = ["MountainCar", "MountainCarContinuous"]

MIN_POSITION, MAX_POSITION, MAX_SPEED = -1.2, 0.6, 0.07
GRAVITY: Final = 0.0025
FORCE, GOAL = 0.001, 0.5
CONTINUOUS_POWER, CONTINUOUS_GOAL, GOAL_REWARD = 0.0015, 0.45, 100.0


class MountainCar(ObservedModel):
    """Actions 0 left, 1 nothing, 2 right; reward -1 a step; ends at the goal."""

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Drive; the left wall stops the car."""
        state_BS, terminated = _drive(state_BS, (action - 1) * FORCE, GOAL)
        return Outcome(state_BS, torch.full_like(state_BS[:, 0], -1.0), terminated)


class MountainCarContinuous(ObservedModel):
    """Action: a force in [-1, 1]; reward -force^2 / 10, and 100 at the goal, which ends the episode."""

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Drive; the left wall stops the car."""
        force = action[:, 0].clamp(-1.0, 1.0)
        state_BS, terminated = _drive(state_BS, force * CONTINUOUS_POWER, CONTINUOUS_GOAL)
        return Outcome(state_BS, GOAL_REWARD * terminated - 0.1 * force.square(), terminated)


def _drive(state_BS: Tensor, push: Tensor, goal: float) -> tuple[Tensor, Tensor]:
    position, velocity = state_BS.unbind(-1)
    velocity = (velocity + (push - torch.cos(3 * position) * GRAVITY)).clamp(-MAX_SPEED, MAX_SPEED)
    position = (position + velocity).clamp(MIN_POSITION, MAX_POSITION)
    velocity = torch.where((position == MIN_POSITION) & (velocity < 0), 0.0, velocity)
    return torch.stack([position, velocity], -1), (position >= goal) & (velocity >= 0)
