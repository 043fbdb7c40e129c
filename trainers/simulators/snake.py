"""Snake: eat fruits, grow, and do not bite yourself.

The grid shows five layers: body, head, tail, fruit, and the age of the body's cells (1 the tail) over its length.
Shapes: B batch, C cells, M moves.
Source: instadeepai/jumanji, routing/snake/env.py; sail-sg/envpool, envpool/jumanji/snake_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.chance import choose_among
from trainers.simulators.grid import Grid, at, put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Snake"]

SIDE: Final = 12
NUM_LAYERS: Final = 5
TIME_LIMIT: Final = 4000


class Snake(ObservedModel):
    """Reward 1 a fruit; ends with an illegal move, without a legal one, with a full grid or after 4000 steps."""

    num_noise = 1  # where the next fruit appears

    def __init__(self, layout: ObsLayout, device: torch.device) -> None:
        self._record = Record(layout)
        self._grid = Grid(SIDE, SIDE, device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Crawl; the tail leaves its cell before the head may enter it, unless a fruit was eaten."""
        fields = self._record.split(state_BS)
        body_BC, head_BC, _, fruit_BC, age_BC = fields["grid"].view(-1, SIDE * SIDE, NUM_LAYERS).unbind(-1)
        length_B1 = body_BC.sum(1, keepdim=True)
        age_BC = (age_BC * length_B1).round()
        head_B, fruit_B = head_BC.argmax(1), fruit_BC.argmax(1)

        ahead = self._grid.move(head_B, action)
        is_legal_B = ahead.is_inside & (at(age_BC, ahead.cell) <= 1)
        eats_B = is_legal_B & (ahead.cell == fruit_B)
        shorter_BC = torch.where((is_legal_B & ~eats_B).unsqueeze(1), (age_BC - 1).clamp(min=0), age_BC)
        length_B1 = length_B1 + eats_B.unsqueeze(1)
        head_B = torch.where(is_legal_B, ahead.cell, head_B)
        age_BC = put(shorter_BC, head_B, length_B1.squeeze(1))
        is_empty_BC = age_BC == 0
        new_fruit_B = choose_among(is_empty_BC, noise_BZ[:, 0])
        fruit_B = torch.where(eats_B & is_empty_BC.any(1), new_fruit_B, fruit_B)

        around = self._grid.around(head_B)
        mask_BM = around.is_inside & (age_BC.gather(1, around.cell) <= 1)
        step_count_B = fields["step_count"].squeeze(1) + 1
        terminated_B = ~is_legal_B | ~is_empty_BC.any(1) | (step_count_B >= TIME_LIMIT) | ~mask_BM.any(1)
        changed = {
            "grid": _layers(age_BC, length_B1, head_B, fruit_B),
            "step_count": step_count_B,
            "action_mask": mask_BM,
        }
        return Outcome(self._record.join(fields | changed), eats_B.float(), terminated_B)


def _layers(age_BC: Tensor, length_B1: Tensor, head_B: Tensor, fruit_B: Tensor) -> Tensor:
    nothing_BC = torch.zeros_like(age_BC)
    one_B = torch.ones_like(head_B)
    layers = ((age_BC > 0).float(), put(nothing_BC, head_B, one_B), (age_BC == 1).float())
    return torch.stack([*layers, put(nothing_BC, fruit_B, one_B), age_BC / length_B1], -1)
