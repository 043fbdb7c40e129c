"""Action distributions as arithmetic on one tensor of parameters; no objects are built in the loop.

A distribution knows its sizes and nothing else: the parameters `[..., P]` come from a network, the noise `[..., Z]`
is drawn beforehand, for a whole rollout at once. Leading dimensions of parameters and actions broadcast.
Shapes: P parameters, Z noise, A action dimensions.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = ["ActionKind", "Distribution"]

ActionKind = Literal["discrete", "multi_discrete", "continuous"]


class Distribution(Protocol):
    """What the learners need of an action distribution."""

    @property
    def num_outputs(self) -> int:
        """Parameters that the network computes from an observation."""

    @property
    def num_free(self) -> int:
        """Parameters that are learnt but do not depend on the observation; they follow the outputs."""

    @property
    def num_noise(self) -> int:
        """Z, the random numbers that one action takes."""

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `out` [..., Z] in place."""

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Turn noise into an action."""

    def to_env(self, action: Tensor) -> Tensor:
        """What the environment executes for an action; the action itself where nothing else is said."""

    def mode(self, params: Tensor) -> Tensor:
        """The most probable action."""

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(action) and H(pi), both without the last dimension; together they share the normalisation."""

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """KL(p || q)."""
