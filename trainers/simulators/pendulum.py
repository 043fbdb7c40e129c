"""Pendulum: swing it up with a torque that is too weak to lift it at once.

envpool moves the angle with the speed from before it is clipped, gymnasium with the clipped one; at the largest
speed they differ by 0.05 a step. This is envpool's rule.
Shapes: B batch; a state is (theta, theta'), an observation (cos theta, sin theta, theta').
Source: sail-sg/envpool, envpool/classic_control/pendulum.h.
"""

import math
from typing import Final

import torch
from torch import Tensor

from trainers.simulators.protocol import Outcome

__all__ = ["Pendulum", "wrap_angle"]

MAX_SPEED, MAX_TORQUE = 8.0, 2.0
TIME_STEP: Final = 0.05
GRAVITY: Final = 10.0


class Pendulum:
    """Action: a torque in [-2, 2]; reward -(theta^2 + theta'^2 / 10 + torque^2 / 1000); never ends by itself."""

    num_noise = 0
    is_on_host = False

    def restore(self, obs_BO: Tensor) -> Tensor:
        """The angle is in its sine and cosine."""
        return torch.stack([torch.atan2(obs_BO[:, 1], obs_BO[:, 0]), obs_BO[:, 2]], -1)

    def observe(self, state_BS: Tensor) -> Tensor:
        """Cosine, sine, speed."""
        theta, theta_dot = state_BS.unbind(-1)
        return torch.stack([theta.cos(), theta.sin(), theta_dot], -1)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Integrate; the reward is that of the state before."""
        theta, theta_dot = state_BS.unbind(-1)
        torque = action[:, 0].clamp(-MAX_TORQUE, MAX_TORQUE)
        cost = theta.square() + 0.1 * theta_dot.square() + 0.001 * torque.square()
        speed = theta_dot + 3 * (GRAVITY / 2 * theta.sin() + torque) * TIME_STEP
        theta = wrap_angle(theta + speed * TIME_STEP)
        state_BS = torch.stack([theta, speed.clamp(-MAX_SPEED, MAX_SPEED)], -1)
        return Outcome(state_BS, -cost, torch.zeros_like(cost, dtype=torch.bool))


def wrap_angle(angle: Tensor) -> Tensor:
    """Bring an angle into [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
