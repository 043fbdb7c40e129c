"""Uniform noise -> choices.

Shapes: B batch, C cells.
"""

import torch
from torch import Tensor

__all__ = ["choose_among", "choose_number"]


def choose_number(noise_B: Tensor, count: Tensor | int) -> Tensor:
    """A whole number from 0 to count - 1, each equally probable; int64 [B]."""
    return (noise_B * count).long()


def choose_among(is_candidate_BC: Tensor, noise_B: Tensor) -> Tensor:
    """One of the candidates in each row, each equally probable; int64 [B], 0 where there is none."""
    rank_BC = is_candidate_BC.cumsum(1)
    chosen_B = choose_number(noise_B, rank_BC[:, -1]) + 1
    return ((rank_BC == chosen_B.unsqueeze(1)) & is_candidate_BC).to(torch.uint8).argmax(1)
