"""Catch: move a paddle under a falling ball.

Shapes: B batch; a state is (ball row, ball column, paddle column).
Source: deepmind/bsuite, environments/catch.py; sail-sg/envpool, envpool/toy_text/catch.h.
"""

import torch
from torch import Tensor

from trainers.simulators.grid import put
from trainers.simulators.protocol import Outcome

__all__ = ["Catch"]


class Catch:
    """Actions: left, stay, right; reward 1 or -1 when the ball is down, which ends the episode."""

    num_noise = 0
    is_on_host = False

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self._num_rows, self._num_columns = num_rows, num_columns

    def restore(self, obs_BO: Tensor) -> Tensor:
        """The ball is what is seen above the last row, the paddle what is seen in it."""
        above_BC = obs_BO[:, : -self._num_columns]
        ball_B, paddle_B = above_BC.argmax(1), obs_BO[:, -self._num_columns :].argmax(1)
        is_down_B = above_BC.sum(1) == 0
        row_B = torch.where(is_down_B, self._num_rows - 1, ball_B // self._num_columns)
        return torch.stack([row_B, ball_B % self._num_columns, paddle_B], -1).float()

    def observe(self, state_BS: Tensor) -> Tensor:
        """A picture with two points."""
        row_B, column_B, paddle_B = state_BS.long().unbind(-1)
        empty_BO = state_BS.new_zeros(len(state_BS), self._num_rows * self._num_columns)
        one_B = torch.ones_like(row_B)
        with_ball_BO = put(empty_BO, row_B * self._num_columns + column_B, one_B)
        return put(with_ball_BO, (self._num_rows - 1) * self._num_columns + paddle_B, one_B)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """The ball falls by one row."""
        row_B, column_B, paddle_B = state_BS.unbind(-1)
        paddle_B = (paddle_B + action - 1).clamp(0, self._num_columns - 1)
        row_B = (row_B + 1).clamp(max=self._num_rows - 1)
        is_down_B = row_B == self._num_rows - 1
        reward_B = torch.where(is_down_B, torch.where(column_B == paddle_B, 1.0, -1.0), 0.0)
        return Outcome(torch.stack([row_B, column_B, paddle_B], -1), reward_B, is_down_B)
