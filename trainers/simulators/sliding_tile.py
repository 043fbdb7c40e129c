"""SlidingTilePuzzle: bring 24 tiles into order by moving the hole.

Shapes: B batch, C cells, M moves.
Source: instadeepai/jumanji, logic/sliding_tile_puzzle/env.py; sail-sg/envpool,
envpool/jumanji/sliding_tile_puzzle_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import Grid, at, put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["SlidingTile"]

SIDE: Final = 5
TIME_LIMIT: Final = 500


class SlidingTile(ObservedModel):
    """Reward: tiles newly in place less tiles newly out of it, the hole counted; ends solved or after 500 steps."""

    def __init__(self, layout: ObsLayout, device: torch.device) -> None:
        self._record = Record(layout)
        self._grid = Grid(SIDE, SIDE, device)
        self._goal_C = torch.arange(1, SIDE * SIDE + 1, device=device).remainder(SIDE * SIDE)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Swap the hole and the tile next to it; nothing happens at the border."""
        fields = self._record.split(state_BS)
        puzzle_BC = fields["puzzle"]
        hole_B = self._grid.cell(*fields["empty_tile_position"].long().unbind(-1))
        next_B = self._grid.move(hole_B, action).cell
        moved_BC = put(put(puzzle_BC, hole_B, at(puzzle_BC, next_B)), next_B, torch.zeros_like(next_B))
        num_before_B = (puzzle_BC == self._goal_C).sum(1)
        num_after_B = (moved_BC == self._goal_C).sum(1)
        step_count_B = fields["step_count"].squeeze(1) + 1
        terminated_B = (num_after_B == SIDE * SIDE) | (step_count_B >= TIME_LIMIT)
        changed = {
            "puzzle": moved_BC,
            "empty_tile_position": torch.stack(self._grid.place(next_B), -1),
            "action_mask": self._grid.around(next_B).is_inside,
            "step_count": step_count_B,
        }
        return Outcome(self._record.join(fields | changed), (num_after_B - num_before_B).float(), terminated_B)
