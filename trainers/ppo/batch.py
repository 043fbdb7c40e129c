"""The rows of a rollout that are learnt from, and their way into minibatches.

Shapes: V valid rows of a rollout, B rows of a minibatch, M minibatches of a pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Shuffle"]


class Batch(NamedTuple):
    """Rows to learn from, all with the same leading dimension.

    Attributes:
        obs: what the policy saw.
        action: what it chose.
        log_prob: how probable that was then.
        advantage: estimate.
        value: the critic's from before the update.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value: Tensor

    def select(self, index: Tensor) -> "Batch":
        """Rows by position."""
        return Batch(*[rows.index_select(0, index) for rows in self])

    def split(self, num_parts: int) -> Iterator["Batch"]:
        """Nearly equal parts, as views."""
        return map(Batch, *[rows.tensor_split(num_parts) for rows in self])


class Shuffle:
    """Deals the valid rows of one rollout to minibatches, each pass anew: every row once, nearly equally many each.

    Args:
        valid_index: int64 [V], positions of the valid rows.
        num_minibatches: M; fewer if there are fewer rows.
        generator: of the order, on the rows' device.
    """

    def __init__(self, valid_index: Tensor, num_minibatches: int, generator: torch.Generator) -> None:
        self._valid_index, self._generator = valid_index, generator
        self.num_minibatches = min(num_minibatches, valid_index.numel())

    def order(self) -> Tensor:
        """The rows of one pass, in the order of their minibatches; int64 [V]."""
        device = self._valid_index.device
        order = torch.randperm(self._valid_index.numel(), generator=self._generator, device=device)
        return self._valid_index.index_select(0, order)

    def fixed_size(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Where each minibatch finds its rows in an order, at a size that does not depend on V.

        Args:
            num_rows: B, enough for the largest minibatch.

        Returns:
            Positions in the order [M, B], and weights [M, B]: 1, or 0 where a row only fills up.
        """
        device, num_valid = self._valid_index.device, self._valid_index.numel()
        sizes_M = torch.full((self.num_minibatches,), num_valid // self.num_minibatches, device=device)
        sizes_M[: num_valid % self.num_minibatches] += 1
        start_M = sizes_M.cumsum(0) - sizes_M
        slot_B = torch.arange(num_rows, device=device)
        is_real_MB = slot_B < sizes_M[:, None]
        return start_M[:, None] + torch.where(is_real_MB, slot_B, 0), is_real_MB.float()
