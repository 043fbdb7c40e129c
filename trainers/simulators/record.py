"""A row of numbers as named fields: how models read and write observations of several leaves.

Shapes: B batch, S numbers of a row, F numbers of one field.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainers.observations import ObsLayout

__all__ = ["Record"]


class Record:
    """Fields side by side in [B, S], named after the observation's keys: `walls`, `agent_position.row`.

    Args:
        layout: of the observation.
        extra: names and sizes of fields behind it that only the model knows.
    """

    def __init__(self, layout: ObsLayout, **extra: int) -> None:
        sizes = {".".join(leaf.path[1:]): leaf.size for leaf in layout.leaves} | extra
        self._names, self._sizes = tuple(sizes), list(sizes.values())

    def split(self, row_BS: Tensor) -> dict[str, Tensor]:
        """The fields [B, F], as views."""
        return dict(zip(self._names, torch.split(row_BS, self._sizes, -1), strict=True))

    def join(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Fields [B, F] or, of one number, [B], of any dtype, as one float32 row."""
        parts = [fields[name].view(-1, size) for name, size in zip(self._names, self._sizes, strict=True)]
        return torch.cat([part.float() for part in parts], -1)
