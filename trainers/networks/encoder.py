"""From an observation to what a trunk can use; nothing here is learnt by gradient.

Shapes: ... leading dimensions, O columns of an observation, F columns of the encoded one, L flags of the mask.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.normalize import ObsNormalizer
from trainers.observations import Leaf, ObsLayout

__all__ = ["ObsEncoder"]


class ObsEncoder(nn.Module):
    """Encode each leaf by what it means.

    Numbers stay as they are, but for integers with known bounds, which are scaled to 0..1; with a normaliser, all of
    them are standardised instead. Symbols become one-hot vectors; a value beyond the known ones becomes 0. The action
    mask is left out, and images are left alone. A flat vector without normaliser passes through untouched.

    Args:
        layout: what an observation is made of.
        normalizes: standardise numbers by running statistics, which are part of this module's state.

    Attributes:
        normalizer: the statistics, if there are numbers to standardise.
        num_outputs: F, if the observation is no image.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, layout: ObsLayout, *, normalizes: bool = False) -> None:
        super().__init__()
        placed = [] if layout.is_image else layout.placed()
        numbers = [(leaf, columns) for leaf, columns in placed if leaf.kind == "number"]
        self._symbols = [_Symbol.of(leaf, columns) for leaf, columns in placed if leaf.kind == "symbol"]
        self._numbers = _merged([columns for _, columns in numbers])
        num_numbers = sum(leaf.size for leaf, _ in numbers)
        self._is_identity = layout.is_image or num_numbers == layout.shape[0]
        self.num_outputs = num_numbers + sum(symbol.num_outputs for symbol in self._symbols)
        self.normalizer = ObsNormalizer(num_numbers) if normalizes and num_numbers else None
        self._is_scaled = self.normalizer is None and any(leaf.high < torch.inf for leaf, _ in numbers)
        if self._is_scaled:
            self.register_buffer("shift", _per_column(numbers, "shift"), persistent=False)
            self.register_buffer("scale", _per_column(numbers, "scale"), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """[..., O] -> [..., F]."""
        parts = [self._encode_numbers(self._take_numbers(obs))] if self._numbers else []
        parts += [symbol.one_hot(obs) for symbol in self._symbols]
        if not parts:
            return obs
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @torch.no_grad()
    def observe(self, obs: Tensor) -> None:
        """Take observations [V, O] into the running statistics, if there are any."""
        if self.normalizer is not None:
            self.normalizer.observe(self._take_numbers(obs))

    def _take_numbers(self, obs: Tensor) -> Tensor:
        if self._is_identity:
            return obs
        parts = [obs[..., columns] for columns in self._numbers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _encode_numbers(self, numbers: Tensor) -> Tensor:
        if self.normalizer is not None:
            normalized: Tensor = self.normalizer(numbers)
            return normalized
        return torch.addcmul(self.shift, numbers, self.scale) if self._is_scaled else numbers


class _Symbol(NamedTuple):
    """A leaf of symbols: its columns, and its values."""

    columns: slice
    num_columns: int
    low: float
    num_symbols: int

    @classmethod
    def of(cls, leaf: Leaf, columns: slice) -> "_Symbol":
        return cls(columns, leaf.size, leaf.low, leaf.num_symbols)

    @property
    def num_outputs(self) -> int:
        return self.num_columns * self.num_symbols

    def one_hot(self, obs: Tensor) -> Tensor:
        """By comparison: unlike an index, a wrong value cannot stop a GPU."""
        value = obs[..., self.columns].unsqueeze(-1)
        symbols = torch.arange(self.num_symbols, dtype=obs.dtype, device=obs.device) + self.low
        return (value == symbols).to(obs.dtype).flatten(-2)


def _merged(columns: list[slice]) -> list[slice]:
    """Join neighbours: fewer pieces to copy."""
    merged: list[slice] = []
    for piece in columns:
        if merged and merged[-1].stop == piece.start:
            merged[-1] = slice(merged[-1].start, piece.stop)
        else:
            merged.append(piece)
    return merged


def _per_column(numbers: list[tuple[Leaf, slice]], what: str) -> Tensor:
    """Shift and scale of each number, so that integers with bounds come to lie in 0..1."""
    values: list[float] = []
    for leaf, _ in numbers:
        is_bounded = leaf.high < torch.inf and leaf.high > leaf.low
        scale = 1.0 / (leaf.high - leaf.low) if is_bounded else 1.0
        shift = -leaf.low * scale if is_bounded else 0.0
        values += [scale if what == "scale" else shift] * leaf.size
    return torch.tensor(values)
