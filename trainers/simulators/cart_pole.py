"""CartPole: a pole on a cart, to be held upright by pushing left or right.

Shapes: B batch; a state is the observation, (x, x', theta, theta').
Source: Barto, Sutton and Anderson 1983; sail-sg/envpool, envpool/classic_control/cartpole.h.
"""

import math
from typing import Final

import torch
from torch import Tensor

from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome

__all__ = ["CartPole"]

GRAVITY: Final = 9.8
CART_MASS, POLE_MASS, HALF_LENGTH = 1.0, 0.1, 0.5
TOTAL_MASS: Final = CART_MASS + POLE_MASS
POLE_SHARE: Final = POLE_MASS / TOTAL_MASS
FORCE: Final = 10.0
TIME_STEP: Final = 0.02
MAX_POSITION: Final = 2.4
MAX_ANGLE: Final = 12 * 2 * math.pi / 360


class CartPole(ObservedModel):
    """Actions 0 left, 1 right; reward 1 a step; ends when the pole leans or the cart leaves."""

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Integrate by Euler's rule, positions with the speeds of before."""
        _, x_dot, theta, theta_dot = state_BS.unbind(-1)
        force = (action * 2 - 1) * FORCE
        cos, sin = theta.cos(), theta.sin()
        push = force / TOTAL_MASS + (POLE_SHARE * HALF_LENGTH) * theta_dot.square() * sin
        inertia = HALF_LENGTH * (4.0 / 3.0 - POLE_SHARE * cos.square())
        theta_acc = (GRAVITY * sin - cos * push) / inertia
        x_acc = push - (POLE_SHARE * HALF_LENGTH) * theta_acc * cos
        state_BS = torch.add(state_BS, torch.stack([x_dot, x_acc, theta_dot, theta_acc], -1), alpha=TIME_STEP)
        x, _, theta, _ = state_BS.unbind(-1)
        terminated = (x.abs() > MAX_POSITION) | (theta.abs() > MAX_ANGLE)
        return Outcome(state_BS, torch.ones_like(x), terminated)
