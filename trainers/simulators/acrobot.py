"""Acrobot: two links that hang down; the joint between them must swing the tip up.

Shapes: B batch; a state is (theta1, theta2, theta1', theta2'), an observation (cos theta1, sin theta1, cos theta2,
sin theta2, theta1', theta2').
Source: Sutton 1996 ("book" dynamics); sail-sg/envpool, envpool/classic_control/acrobot.h.
"""

import math
from typing import Final

import torch
from torch import Tensor

from trainers.simulators.pendulum import wrap_angle
from trainers.simulators.protocol import Outcome

__all__ = ["Acrobot"]

GRAVITY: Final = 9.8
TIME_STEP: Final = 0.2
LENGTH, MASS, CENTRE, INERTIA = 1.0, 1.0, 0.5, 1.0
"""Of each link; CENTRE is the distance from joint to centre of mass."""
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi


class Acrobot:
    """Actions: torque -1, 0, 1; reward -1 a step and 0 at the end, when the tip is one link above the base."""

    num_noise = 0
    is_on_host = False

    def restore(self, obs_BO: Tensor) -> Tensor:
        """The angles are in their sines and cosines."""
        cos_1, sin_1, cos_2, sin_2, speed_1, speed_2 = obs_BO.unbind(-1)
        return torch.stack([torch.atan2(sin_1, cos_1), torch.atan2(sin_2, cos_2), speed_1, speed_2], -1)

    def observe(self, state_BS: Tensor) -> Tensor:
        """Cosines, sines, speeds."""
        theta_1, theta_2, speed_1, speed_2 = state_BS.unbind(-1)
        return torch.stack([theta_1.cos(), theta_1.sin(), theta_2.cos(), theta_2.sin(), speed_1, speed_2], -1)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Integrate by the classical Runge-Kutta rule of fourth order."""
        torque = (action - 1).to(state_BS.dtype)
        k1 = _derivative(state_BS, torque)
        k2 = _derivative(state_BS + k1 * (TIME_STEP / 2), torque)
        k3 = _derivative(state_BS + k2 * (TIME_STEP / 2), torque)
        k4 = _derivative(state_BS + k3 * TIME_STEP, torque)
        theta_1, theta_2, speed_1, speed_2 = (state_BS + (k1 + 2 * k2 + 2 * k3 + k4) * (TIME_STEP / 6)).unbind(-1)
        theta_1, theta_2 = wrap_angle(theta_1), wrap_angle(theta_2)
        speed_1 = speed_1.clamp(-MAX_SPEED_1, MAX_SPEED_1)
        speed_2 = speed_2.clamp(-MAX_SPEED_2, MAX_SPEED_2)
        terminated = -theta_1.cos() - (theta_1 + theta_2).cos() > 1
        state_BS = torch.stack([theta_1, theta_2, speed_1, speed_2], -1)
        return Outcome(state_BS, terminated.to(state_BS.dtype) - 1.0, terminated)


def _derivative(state_BS: Tensor, torque: Tensor) -> Tensor:
    theta_1, theta_2, speed_1, speed_2 = state_BS.unbind(-1)
    cos_2, sin_2 = theta_2.cos(), theta_2.sin()
    d1 = MASS * CENTRE**2 + MASS * (LENGTH**2 + CENTRE**2 + 2 * LENGTH * CENTRE * cos_2) + 2 * INERTIA
    d2 = MASS * (CENTRE**2 + LENGTH * CENTRE * cos_2) + INERTIA
    phi_2 = MASS * CENTRE * GRAVITY * (theta_1 + theta_2).sin()  # cos(x - pi / 2)
    phi_1 = -MASS * LENGTH * CENTRE * speed_2 * (speed_2 + 2 * speed_1) * sin_2
    phi_1 = phi_1 + MASS * (CENTRE + LENGTH) * GRAVITY * theta_1.sin() + phi_2
    swing = torque + d2 / d1 * phi_1 - MASS * LENGTH * CENTRE * speed_1.square() * sin_2 - phi_2
    acceleration_2 = swing / (MASS * CENTRE**2 + INERTIA - d2.square() / d1)
    acceleration_1 = -(d2 * acceleration_2 + phi_1) / d1
    return torch.stack([speed_1, speed_2, acceleration_1, acceleration_2], -1)
