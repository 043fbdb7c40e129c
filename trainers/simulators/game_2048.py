"""2048: slide the tiles of a 4 x 4 board; equal ones merge, and a new one appears.

A cell holds the exponent of its tile, 0 where it is empty.
Shapes: B batch, C 16 cells, M four moves, L four lines, P places along a line, counted from where the tiles go.
Source: instadeepai/jumanji, logic/game_2048/env.py and utils.py; sail-sg/envpool, envpool/jumanji/game2048_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.chance import choose_among
from trainers.simulators.grid import put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Game2048"]

SIDE: Final = 4
FOUR_PROBABILITY: Final = 0.1


class Game2048(ObservedModel):
    """Reward: the sum of the tiles that merging makes; an illegal move changes nothing; ends when none is legal."""

    num_noise = 2  # where the new tile appears, and whether it is a four

    def __init__(self, layout: ObsLayout, device: torch.device) -> None:
        self._record = Record(layout)
        board = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
        lines = [board.T, board.flip(1), board.flip(0).T, board]  # up, right, down, left
        cells_MC = torch.stack([line.reshape(-1) for line in lines])
        self._cells_MC, self._places_MC = cells_MC.to(device), cells_MC.argsort(1).to(device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Slide, merge, and let a tile appear."""
        board_BC = self._record.split(state_BS)["board"]
        lines_BLP = board_BC.gather(1, self._cells_MC[action]).view(-1, SIDE, SIDE)
        slid_BLP, reward_B = _merge(_compact(lines_BLP))
        moved_BC = slid_BLP.flatten(1).gather(1, self._places_MC[action])
        is_legal_B = (moved_BC != board_BC).any(1)
        cell_B = choose_among(moved_BC == 0, noise_BZ[:, 0])
        tile_B = 1 + (noise_BZ[:, 1] < FOUR_PROBABILITY).to(board_BC.dtype)
        board_BC = torch.where(is_legal_B.unsqueeze(1), put(moved_BC, cell_B, tile_B), board_BC)
        mask_BM = self._legal_moves(board_BC)
        return Outcome(self._record.join({"board": board_BC, "action_mask": mask_BM}), reward_B, ~mask_BM.any(1))

    def _legal_moves(self, board_BC: Tensor) -> Tensor:
        """A move changes something where a tile has a gap before it, or its like."""
        lines_BMLP = board_BC[:, self._cells_MC].view(-1, SIDE, SIDE, SIDE)
        before, tile = lines_BMLP[..., :-1], lines_BMLP[..., 1:]
        return ((tile > 0) & ((before == 0) | (before == tile))).flatten(2).any(2)


def _compact(lines_BLP: Tensor) -> Tensor:
    """Push the tiles of every line together."""
    place_BLP = ((lines_BLP > 0).cumsum(-1) - 1).clamp(min=0)
    return torch.zeros_like(lines_BLP).scatter_add(-1, place_BLP, lines_BLP)


def _merge(lines_BLP: Tensor) -> tuple[Tensor, Tensor]:
    """Merge equal neighbours of compact lines, each tile once, from the front; returns lines and reward [B]."""
    a, b, c, d = lines_BLP.unbind(-1)
    ab = (a == b) & (a > 0)
    bc = (b == c) & (b > 0) & ~ab
    cd = (c == d) & (c > 0) & ~bc
    merged = torch.stack([
        torch.where(ab, a + 1, a),
        torch.where(ab, torch.where(cd, c + 1, c), torch.where(bc, b + 1, b)),
        torch.where(ab, torch.where(cd, 0.0, d), torch.where(bc, d, torch.where(cd, c + 1, c))),
        torch.where(ab | bc | cd, 0.0, d),
    ], -1)  # fmt: skip
    gained = ab * (a + 1).exp2() + bc * (b + 1).exp2() + cd * (c + 1).exp2()
    return merged, gained.sum(-1)
