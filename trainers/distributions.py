"""Action distributions as arithmetic on one tensor of parameters; no objects are built in the loop.

A distribution knows its sizes and nothing else: the parameters `[..., P]` come from a network, the noise `[..., Z]`
is drawn beforehand, for a whole rollout at once. Leading dimensions of parameters and actions broadcast.
Shapes: P parameters, Z noise, A action dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = [
    "ActionKind",
    "Categorical",
    "DiagGaussian",
    "Distribution",
    "MultiCategorical",
    "make_distribution",
]

ActionKind = Literal["discrete", "multi_discrete", "continuous"]

_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


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

    def mode(self, params: Tensor) -> Tensor:
        """The most probable action."""

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(action) and H(pi), both without the last dimension; together they share the normalisation."""

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """KL(p || q)."""


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
        return out.exponential_(generator=generator).log_().neg_()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Argmax of logits + Gumbel noise is distributed as softmax(logits)."""
        return (params + noise).argmax(-1)

    def mode(self, params: Tensor) -> Tensor:
        """The action with the largest logit."""
        return params.argmax(-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log p_a, and -sum p log p; an action of logit -inf adds nothing to the entropy."""
        log_p = params.log_softmax(-1)
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        chosen = log_p.expand(*action.shape, self.num_actions).gather(-1, action.unsqueeze(-1))
        return chosen.squeeze(-1), entropy

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """Sum of p (log p - log q) over the actions that p can choose."""
        log_p, log_q = params_p.log_softmax(-1), params_q.log_softmax(-1)
        p = log_p.exp()
        return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


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
        return out.exponential_(generator=generator).log_().neg_()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Choose in every dimension by itself."""
        return self.mode(params + noise)

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


@dataclass(frozen=True, slots=True)
class DiagGaussian:
    """Independent normal variables; parameters are A means, then A log standard deviations; actions float [..., A].

    The standard deviations do not depend on the observation. Actions are not squashed: the environment clips what it
    executes, and the density is that of the unclipped action.
    """

    size: int

    @property
    def num_outputs(self) -> int:
        """The means."""
        return self.size

    @property
    def num_free(self) -> int:
        """The log standard deviations."""
        return self.size

    @property
    def num_noise(self) -> int:
        """One standard normal variable per dimension."""
        return self.size

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw Normal(0, 1)."""
        return out.normal_(generator=generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Mean + std * noise."""
        mean, log_std = params.chunk(2, -1)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, params: Tensor) -> Tensor:
        """The mean."""
        return params.chunk(2, -1)[0]

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """-sum(z^2 / 2 + log std + log sqrt(2 pi)) with z = (a - mean) / std; sum(log std + log sqrt(2 pi e))."""
        mean, log_std = params.chunk(2, -1)
        z = (action - mean) * torch.exp(-log_std)
        log_std_sum = log_std.sum(-1)
        log_prob = -0.5 * z.square().sum(-1) - log_std_sum - self.size * _LOG_SQRT_2_PI
        return log_prob, log_std_sum + self.size * (0.5 + _LOG_SQRT_2_PI)

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """Sum of log(std_q / std_p) + (std_p^2 + (mean_p - mean_q)^2) / (2 std_q^2) - 1/2."""
        mean_p, log_std_p = params_p.chunk(2, -1)
        mean_q, log_std_q = params_q.chunk(2, -1)
        ratio = torch.exp(2.0 * (log_std_p - log_std_q))
        shift = ((mean_p - mean_q) * torch.exp(-log_std_q)).square()
        return (log_std_q - log_std_p + 0.5 * (ratio + shift - 1.0)).sum(-1)


def make_distribution(kind: ActionKind, sizes: Sequence[int]) -> Distribution:
    """Build the distribution of an action space.

    Args:
        kind: what an action is.
        sizes: (number of actions,) if discrete, actions per dimension if multi-discrete, (dimensions,) if continuous.
    """
    if kind == "discrete":
        return Categorical(sizes[0])
    if kind == "multi_discrete":
        return MultiCategorical(tuple(sizes))
    return DiagGaussian(sizes[0])
