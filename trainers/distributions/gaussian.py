"""Distributions over continuous actions.

Shapes: A action dimensions, K nodes of a quadrature.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DiagGaussian", "SquashedGaussian"]

LOG_SQRT_2_PI: Final = 0.5 * math.log(2.0 * math.pi)
NUM_NODES: Final = 24
"""Of the quadrature of the entropy: within 1e-3 up to a standard deviation of 1.5, within 1e-2 up to 3."""


@dataclass(frozen=True, slots=True)
class DiagGaussian:
    """Independent normal variables; parameters are A means, then A log standard deviations; actions float [..., A].

    The standard deviations do not depend on the observation. The environment clips what it executes; the density is
    that of the unclipped action.
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

    def to_env(self, action: Tensor) -> Tensor:
        """The action; the environment clips it."""
        return action

    def mode(self, params: Tensor) -> Tensor:
        """The mean."""
        return params.chunk(2, -1)[0]

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """-sum(z^2 / 2 + log std + log sqrt(2 pi)) with z = (a - mean) / std; sum(log std + log sqrt(2 pi e))."""
        mean, log_std = params.chunk(2, -1)
        z = (action - mean) * torch.exp(-log_std)
        log_std_sum = log_std.sum(-1)
        log_prob = -0.5 * z.square().sum(-1) - log_std_sum - self.size * LOG_SQRT_2_PI
        return log_prob, log_std_sum + self.size * (0.5 + LOG_SQRT_2_PI)

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """Sum of log(std_q / std_p) + (std_p^2 + (mean_p - mean_q)^2) / (2 std_q^2) - 1/2."""
        mean_p, log_std_p = params_p.chunk(2, -1)
        mean_q, log_std_q = params_q.chunk(2, -1)
        ratio = torch.exp(2.0 * (log_std_p - log_std_q))
        shift = ((mean_p - mean_q) * torch.exp(-log_std_q)).square()
        return (log_std_q - log_std_p + 0.5 * (ratio + shift - 1.0)).sum(-1)


class SquashedGaussian:
    """A normal variable u, squashed into the bounds of the action: a = center + half_width * tanh(u).

    An action is kept as its u. The density of a is exact in u, however near to a bound a lies; tanh could not be
    undone there. Parameters are those of `DiagGaussian`.

        log p(a) = log N(u) - sum(log half_width + log(1 - tanh(u)^2))
        H(a)     = H(u) + sum(log half_width + E[log(1 - tanh(u)^2)]), the expectation by Gauss-Hermite quadrature

    Args:
        low: least value of each of the A dimensions.
        high: greatest value.
        device: of the parameters.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float], device: torch.device | str = "cpu") -> None:
        self._gaussian = DiagGaussian(len(low))
        self._center = torch.tensor([(b + a) / 2 for a, b in zip(low, high, strict=True)], device=device)
        self._half_width = torch.tensor([(b - a) / 2 for a, b in zip(low, high, strict=True)], device=device)
        self._log_volume = float(self._half_width.double().log().sum())
        nodes_K, weights_K = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        self._nodes_K = torch.tensor(nodes_K, dtype=torch.float32, device=device)
        self._weights_K = torch.tensor(weights_K / weights_K.sum(), dtype=torch.float32, device=device)
        self.num_outputs = self.num_free = self.num_noise = len(low)

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw Normal(0, 1)."""
        return self._gaussian.draw_noise_(out, generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Mean + std * noise, not squashed."""
        return self._gaussian.sample(params, noise)

    def to_env(self, action: Tensor) -> Tensor:
        """Squash u into the bounds."""
        return torch.addcmul(self._center, self._half_width, torch.tanh(action))

    def mode(self, params: Tensor) -> Tensor:
        """The mean of u: the median of the action, and at its centre for small deviations its mode."""
        return self._gaussian.mode(params)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Of the squashed action, given by its u."""
        log_prob, entropy = self._gaussian.log_prob_and_entropy(params, action)
        mean, log_std = params.chunk(2, -1)
        u_K = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self._nodes_K.to(mean.dtype)
        expected = (_log_slope(u_K) @ self._weights_K.to(mean.dtype)).sum(-1)
        log_slope = _log_slope(action).sum(-1)
        return log_prob - log_slope - self._log_volume, entropy + expected + self._log_volume

    def kl(self, params_p: Tensor, params_q: Tensor) -> Tensor:
        """That of the normal variables: squashing both alike changes nothing."""
        return self._gaussian.kl(params_p, params_q)


def _log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), without cancellation."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
