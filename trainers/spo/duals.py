"""The multipliers of SPO's constraints, as numbers that can be learnt: temperature and alphas, all positive."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Duals", "temperature_of"]

LEAST: Final = 1e-8
"""So that nothing is ever divided by 0."""
LEAST_RAW: Final = -18.0
"""softplus of it is 1.5e-8. It only bounds how small a multiplier becomes: so far down its gradient, sigmoid(raw) times
the slack, is nothing beside Adam's epsilon, and it stays there. So the configuration lets none start so low."""


class Duals(nn.Module):
    """softplus(raw) + 1e-8 of each that is learnt; the others stay where they are.

    Args:
        fixed: numbers that are not learnt, by name.
        initial: where each of those that are starts, by name, with the number of dimensions that it has.
    """

    def __init__(self, fixed: Mapping[str, float] | None = None, **initial: tuple[float, int]) -> None:
        super().__init__()
        self._sizes = {name: size for name, (_, size) in initial.items()}
        # side by side: each gradient step computes them all
        raw = [torch.full((size,), _inverse_softplus(value)) for value, size in initial.values()]
        self.raw = nn.Parameter(torch.cat(raw))
        self._fixed = tuple(fixed or ())
        for name, value in (fixed or {}).items():
            self.register_buffer(name, torch.tensor([value]))

    def forward(self) -> dict[str, Tensor]:
        """The multipliers, one number per dimension."""
        parts = torch.split(functional.softplus(self.raw) + LEAST, list(self._sizes.values()))
        return dict(zip(self._sizes, parts, strict=True)) | {name: getattr(self, name) for name in self._fixed}

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep what is learnt where it can still be learnt; call it after every step."""
        self.raw.clamp_(min=LEAST_RAW)


def temperature_of(state: Mapping[str, Tensor]) -> Tensor:
    """Read the temperature, 0-d, from a `state_dict` of any run's duals: learnt, it is the first of the raw ones."""
    fixed = state.get("temperature")
    return fixed[0] if fixed is not None else functional.softplus(state["raw"][0]) + LEAST


def _inverse_softplus(value: float) -> float:
    value -= LEAST
    return max(value + math.log(-math.expm1(-value)), LEAST_RAW) if value > 0 else LEAST_RAW
