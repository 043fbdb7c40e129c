"""What an observation is made of: leaves that lie side by side in one tensor.

Whatever a task shows, the learners handle one tensor. A single image stays what it is, uint8 of the task's own shape;
everything else, a flat vector or a nested dict with its action mask, is packed into one float32 row of O numbers, and
the layout says which columns mean what. Environments pack, encoders unpack; storage, replay and search in between
need not know.
"""

import math
from typing import Literal, NamedTuple

__all__ = ["Leaf", "LeafKind", "ObsLayout"]

LeafKind = Literal["number", "symbol", "image", "mask"]
"""number: a quantity, to be scaled. symbol: one of a few values without order, to be shown as one-hot. image: pixels.
mask: which actions are legal."""


class Leaf(NamedTuple):
    """One array of an observation.

    Attributes:
        path: where the environment keeps it: `obs` or `info`, then the keys of its nested dict.
        shape: for one environment.
        kind: what its numbers mean.
        low: least value; -inf where none is known.
        high: likewise.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    kind: LeafKind = "number"
    low: float = -math.inf
    high: float = math.inf

    @property
    def size(self) -> int:
        """Columns that it takes."""
        return math.prod(self.shape)

    @property
    def num_symbols(self) -> int:
        """Values that a symbol may have."""
        return int(self.high - self.low) + 1


class ObsLayout(NamedTuple):
    """The leaves of an observation, in the order of their columns."""

    leaves: tuple[Leaf, ...]

    @classmethod
    def vector(cls, size: int) -> "ObsLayout":
        """A flat vector of numbers."""
        return cls((Leaf(("obs",), (size,)),))

    @property
    def is_image(self) -> bool:
        """Whether the observation is one image, in uint8; it is a float32 vector otherwise."""
        return self.leaves[0].kind == "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation: that of the image, or (O,)."""
        return self.leaves[0].shape if self.is_image else (sum(leaf.size for leaf in self.leaves),)

    @property
    def mask(self) -> slice | None:
        """The columns that hold 1 where an action is legal and 0 where it is not."""
        masks = [columns for leaf, columns in self.placed() if leaf.kind == "mask"]
        return masks[0] if masks else None

    def placed(self) -> list[tuple[Leaf, slice]]:
        """The leaves with their columns."""
        placed, start = list[tuple[Leaf, slice]](), 0
        for leaf in self.leaves:
            placed.append((leaf, slice(start, start + leaf.size)))
            start += leaf.size
        return placed

    def columns(self, *path: str) -> slice:
        """The columns of one leaf, for example of ("obs", "agent_position", "row")."""
        return next(columns for leaf, columns in self.placed() if leaf.path == path)
