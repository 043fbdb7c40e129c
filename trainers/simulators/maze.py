"""Maze: walk from one corner to the other.

Shapes: B batch, C cells, M moves.
Source: instadeepai/jumanji, routing/maze/env.py; sail-sg/envpool, envpool/jumanji/maze_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import Grid
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Maze"]

SIDE: Final = 10
TIME_LIMIT: Final = 100


class Maze(ObservedModel):
    """A blocked move stays; reward 1 at the target; ends there, after 100 steps, or where no way is open."""

    def __init__(self, layout: ObsLayout, device: torch.device) -> None:
        self._record = Record(layout)
        self._grid = Grid(SIDE, SIDE, device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Walk."""
        fields = self._record.split(state_BS)
        walls_BC = fields["walls"]
        start_B = self._cell(fields, "agent_position")
        next_B = self._grid.move(start_B, action).cell
        is_wall_B = walls_BC.gather(1, next_B.unsqueeze(1)).squeeze(1) > 0
        agent_B = torch.where(is_wall_B, start_B, next_B)
        around = self._grid.around(agent_B)
        is_open_BM = around.is_inside & (walls_BC.gather(1, around.cell) == 0)
        step_count_B = fields["step_count"].squeeze(1) + 1
        is_there_B = agent_B == self._cell(fields, "target_position")
        terminated_B = is_there_B | (step_count_B >= TIME_LIMIT) | ~is_open_BM.any(1)
        row_B, column_B = self._grid.place(agent_B)
        changed = {"agent_position.row": row_B, "agent_position.col": column_B}
        changed |= {"step_count": step_count_B, "action_mask": is_open_BM}
        return Outcome(self._record.join(fields | changed), is_there_B.float(), terminated_B)

    def _cell(self, fields: dict[str, Tensor], name: str) -> Tensor:
        return self._grid.cell(fields[f"{name}.row"], fields[f"{name}.col"]).squeeze(1).long()
