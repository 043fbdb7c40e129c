"""Distributions over choices, and how illegal choices are ruled out.

Shapes: P parameters, Z noise, A action dimensions, L logits.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["ILLEGAL", "Categorical", "MultiCategorical", "mask_logits"]

ILLEGAL: Final = -1e9
"""Logit of an illegal action. Its probability is 0 to the last bit, no noise lifts it over a legal one, and, unlike
with -inf, losses and their gradients stay finite, even if nothing is legal."""


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Rule out actions.

    Args:
        logits: [..., L].
        mask: [..., L], 0 or false where an action is illegal.
    """
    return torch.where(mask != 0, logits, ILLEGAL)


@dataclass(frozen=True, slots=True)
class Categorical:
    """One choice among `num_actions`; parameters are unnormalised log-probabilities, actions are int64 [...]."""

    num_actions: int
    num_free: int = 0

    @property
    def num_outputs(self) -> int:
        """One logit per action."""
        return self.num_actions

    @property
    def num_noise(self) -> int:
        """One Gumbel variable per action."""
        return self.num_actions

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw Gumbel(0, 1): -log E with E ~ Exponential(1)."""
        return _draw_gumbel_(out, generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Argmax of logits + Gumbel noise is distributed as softmax(logits)."""
        return (params + noise).argmax(-1)

    def to_env(self, action: Tensor) -> Tensor:
        """The choice itself."""
        return action

    def mode(self, params: Tensor) -> Tensor:
        """The action with the largest logit."""
        return params.argmax(-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log p_a, and -sum p log p; illegal actions have p = 0 and add nothing, to the gradient either."""
        log_p = params.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        chosen = log_p.expand(*action.shape, self.num_actions).gather(-1, action.unsqueeze(-1))
        return chosen.squeeze(-1), entropy

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """Sum of p (log p - log q); actions that are illegal under both add nothing."""
        log_p, log_q = params_p.log_softmax(-1), params_q.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclass(frozen=True, slots=True)
class MultiCategorical:
    """Independent choices, one per dimension; parameters are the logits side by side, actions int64 [..., A]."""

    sizes: tuple[int, ...]
    num_free: int = 0

    @property
    def num_outputs(self) -> int:
        """One logit per action of every dimension."""
        return sum(self.sizes)

    @property
    def num_noise(self) -> int:
        """One Gumbel variable per logit."""
        return sum(self.sizes)

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw Gumbel(0, 1)."""
        return _draw_gumbel_(out, generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Choose in every dimension by itself."""
        return self.mode(params + noise)

    def to_env(self, action: Tensor) -> Tensor:
        """The choices themselves."""
        return action

    def mode(self, params: Tensor) -> Tensor:
        """The largest logit of every dimension."""
        return torch.stack([head.argmax(-1) for head in self._heads(params)], -1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the dimensions."""
        heads = zip(self.sizes, self._heads(params), action.unbind(-1), strict=True)
        parts = [Categorical(size).log_prob_and_entropy(logits, choice) for size, logits, choice in heads]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """Sum over the dimensions."""
        heads = zip(self.sizes, self._heads(params_p), self._heads(params_q), strict=True)
        return torch.stack([Categorical(size).kl(p, q) for size, p, q in heads]).sum(0)

    def _heads(self, params: Tensor) -> tuple[Tensor, ...]:
        return torch.split(params, list(self.sizes), -1)


def _draw_gumbel_(out: Tensor, generator: torch.Generator) -> Tensor:
    # a 0 would become infinite noise, which lifts any action over any other
    return out.exponential_(generator=generator).clamp_(min=1e-30).log_().neg_()
