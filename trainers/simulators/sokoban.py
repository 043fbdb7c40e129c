"""Sokoban: push four boxes onto four targets.

A cell of the grid shows two layers: what moves (0 nothing, 3 the agent, 4 a box) and what does not (0 floor, 1 wall,
2 target).
Shapes: B batch, C cells.
Source: instadeepai/jumanji, routing/sokoban/env.py and reward.py; sail-sg/envpool, envpool/jumanji/sokoban_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import Grid, at, put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Sokoban"]

SIDE: Final = 10
NUM_BOXES: Final = 4
WALL, TARGET = 1, 2
EMPTY, AGENT, BOX = 0, 3, 4
STEP_COST, SOLVED_REWARD = 0.1, 10.0


class Sokoban(ObservedModel):
    """Reward: boxes newly on targets, 10 more when all are, less 0.1 a step; ends when all are."""

    def __init__(self, layout: ObsLayout, device: torch.device) -> None:
        self._record = Record(layout)
        self._grid = Grid(SIDE, SIDE, device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Walk, and push a box if it is in the way and the cell behind it is free; else stay."""
        fields = self._record.split(state_BS)
        moving_BC, fixed_BC = fields["grid"].view(-1, SIDE * SIDE, 2).unbind(-1)
        agent_B = moving_BC.eq(AGENT).int().argmax(1)
        ahead_B, is_inside_B = self._grid.move(agent_B, action)
        behind_B, has_room_B = self._grid.move(ahead_B, action)
        is_push_B = at(moving_BC, ahead_B) == BOX
        is_free_B = has_room_B & (at(moving_BC, behind_B) != BOX) & (at(fixed_BC, behind_B) != WALL)
        moves_B = is_inside_B & (at(fixed_BC, ahead_B) != WALL) & (~is_push_B | is_free_B)

        walked_BC = put(moving_BC, agent_B, torch.full_like(agent_B, EMPTY))
        behind = torch.where(is_push_B, BOX, at(walked_BC, behind_B))
        walked_BC = put(put(walked_BC, behind_B, behind), ahead_B, torch.full_like(agent_B, AGENT))
        moved_BC = torch.where(moves_B.unsqueeze(1), walked_BC, moving_BC)

        gained_B = _num_on_target(moved_BC, fixed_BC) - _num_on_target(moving_BC, fixed_BC)
        is_solved_B = _num_on_target(moved_BC, fixed_BC) == NUM_BOXES
        reward_B = gained_B + SOLVED_REWARD * is_solved_B - STEP_COST
        changed = {"grid": torch.stack([moved_BC, fixed_BC], -1), "step_count": fields["step_count"] + 1}
        return Outcome(self._record.join(fields | changed), reward_B, is_solved_B)


def _num_on_target(moving_BC: Tensor, fixed_BC: Tensor) -> Tensor:
    return ((moving_BC == BOX) & (fixed_BC == TARGET)).sum(1)
