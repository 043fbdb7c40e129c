"""Moves on a grid whose cells lie row after row in one tensor.

Shapes: B batch, C cells, M the four moves: 0 up, 1 right, 2 down, 3 left.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Grid", "Neighbours", "at", "put"]

ROW_MOVES, COLUMN_MOVES = (-1, 0, 1, 0), (0, 1, 0, -1)


class Neighbours(NamedTuple):
    """Cells next to others.

    Attributes:
        cell: int64 [B] or [B, M]; where it would be outside, the cell that one comes from.
        is_inside: bool, likewise.
    """

    cell: Tensor
    is_inside: Tensor


class Grid:
    """A grid's size, and where its moves lead.

    Args:
        num_rows: of the grid.
        num_columns: of the grid.
        device: of the tensors that come in.
    """

    def __init__(self, num_rows: int, num_columns: int, device: torch.device) -> None:
        self.num_rows, self.num_columns = num_rows, num_columns
        self._row_move_M = torch.tensor(ROW_MOVES, device=device)
        self._column_move_M = torch.tensor(COLUMN_MOVES, device=device)

    def cell(self, row: Tensor, column: Tensor) -> Tensor:
        """The cell at a place."""
        return row * self.num_columns + column

    def place(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The row and the column of a cell."""
        return cell // self.num_columns, cell % self.num_columns

    def move(self, cell_B: Tensor, move_B: Tensor) -> Neighbours:
        """Where one move leads."""
        row_B, column_B = self.place(cell_B)
        return self._neighbours(cell_B, row_B + self._row_move_M[move_B], column_B + self._column_move_M[move_B])

    def around(self, cell_B: Tensor) -> Neighbours:
        """Where each of the four moves leads."""
        cell_B1 = cell_B.unsqueeze(-1)
        row_B1, column_B1 = self.place(cell_B1)
        return self._neighbours(cell_B1, row_B1 + self._row_move_M, column_B1 + self._column_move_M)

    def _neighbours(self, start: Tensor, row: Tensor, column: Tensor) -> Neighbours:
        is_inside = (row >= 0) & (row < self.num_rows) & (column >= 0) & (column < self.num_columns)
        return Neighbours(torch.where(is_inside, self.cell(row, column), start), is_inside)


def at(content_BC: Tensor, cell_B: Tensor) -> Tensor:
    """The content [B] of one cell in each row."""
    return content_BC.gather(1, cell_B.unsqueeze(1)).squeeze(1)


def put(content_BC: Tensor, cell_B: Tensor, value: Tensor) -> Tensor:
    """A copy with another content [B] of one cell in each row."""
    return content_BC.scatter(1, cell_B.unsqueeze(1), value.to(content_BC.dtype).unsqueeze(1))
