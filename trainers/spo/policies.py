"""What a search and its losses need of a policy: drawing, judging and choosing actions.

The parameters come from the network: logits, or the means and raw deviations of a normal variable that is squashed
into the action's bounds.
Shapes: N environments, B batch, K atoms (particles or root actions), P parameters, Z noise, A actions or dimensions.
"""

import math
from typing import Final, Protocol

import torch
from torch import Tensor

from trainers.spo.weights import resample

__all__ = ["DiscretePolicy", "SearchPolicy", "SquashedGaussianPolicy"]

SMALLEST_STD: Final = 1e-3
EDGE: Final = 1e-3
"""Of the squashed range [-1, 1]: closer to a bound, the probability of all that lies there is spread evenly."""


class SearchPolicy(Protocol):
    """A family of action distributions."""

    @property
    def num_outputs(self) -> int:
        """P, numbers that the network computes."""

    @property
    def num_noise(self) -> int:
        """Z, random numbers of an action."""

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `out` [..., Z] in place."""

    def params(self, outputs: Tensor, obs: Tensor) -> Tensor:
        """Turn the network's outputs into parameters [..., P]: illegal actions get none of the probability."""

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """Of what one environment takes at the root, beside the noise of its actions, to explore."""

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Fill `out` [..., *root_noise_shape] in place."""

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Turn noise into actions, [...] or [..., A]."""

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Draw the K root actions, a fraction of what decides about them being noise; [N, K] or [N, K, A]."""

    def log_prob(self, params_BP: Tensor, action_BK: Tensor) -> Tensor:
        """log pi of K actions in each row; [B, K]."""

    def best(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The one action that stands for a weighted set, without chance; [N] or [N, A]."""


class DiscretePolicy:
    """One choice among A; parameters are log-probabilities.

    Args:
        num_actions: A.
        mask: the observation's columns that say which actions are legal; None where all are.
    """

    num_noise = 1

    def __init__(self, num_actions: int, mask: slice | None = None) -> None:
        self.num_outputs = num_actions
        self._mask = mask

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniform numbers."""
        return out.uniform_(generator=generator)

    def params(self, outputs: Tensor, obs: Tensor) -> Tensor:
        """Normalise; where nothing is legal, nothing depends on the choice, and all is allowed."""
        if self._mask is not None:
            legal = obs[..., self._mask] > 0
            outputs = outputs.masked_fill(~legal & legal.any(-1, keepdim=True), -torch.inf)
        return outputs.float().log_softmax(-1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Invert the cumulative distribution."""
        return resample(params.exp(), noise).squeeze(-1)

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """A probability for each action."""
        return (self.num_outputs,)

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Draw Gamma(concentration, 1), which becomes Dirichlet where it is divided by its sum."""
        gamma: Tensor = torch._standard_gamma(torch.full_like(out, concentration), generator)
        return out.copy_(gamma)

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Draw from the mixture with the Dirichlet noise."""
        params_N1P = self.mixed(params_NP, root_noise, fraction).unsqueeze(1)
        return self.sample(params_N1P.expand(*noise_NKZ.shape[:2], -1), noise_NKZ)

    def mixed(self, params_NP: Tensor, root_noise_NA: Tensor, fraction: float) -> Tensor:
        """log((1 - f) pi + f Dirichlet), with no noise on illegal actions; [N, A]."""
        if fraction == 0:
            return params_NP
        legal_NA = torch.where(params_NP > -torch.inf, root_noise_NA, 0.0)
        dirichlet_NA = legal_NA / legal_NA.sum(-1, keepdim=True)
        return torch.log((1 - fraction) * params_NP.exp() + fraction * dirichlet_NA)

    def log_prob(self, params_BP: Tensor, action_BK: Tensor) -> Tensor:
        """Look them up."""
        return params_BP.gather(-1, action_BK)

    def best(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The action with the greatest sum of weights; of equal ones the first."""
        q_NA = self.aggregate(action_NK, weight_NK)
        is_best_NA = q_NA == q_NA.amax(-1, keepdim=True)
        order_A = torch.arange(self.num_outputs, device=q_NA.device)
        return torch.where(is_best_NA, order_A, self.num_outputs).amin(-1)

    def aggregate(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """q(a): the sum of the weights of each action; [N, A]."""
        nothing_NA = weight_NK.new_zeros(*weight_NK.shape[:-1], self.num_outputs)
        return nothing_NA.scatter_add(-1, action_NK, weight_NK)


class SquashedGaussianPolicy:
    """a = centre + scale tanh(x), x ~ Normal(mean, std); std = softplus(raw) + 1e-3. Parameters: A means, A std.

    Args:
        low: least action, [A].
        high: greatest action, [A].
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.num_noise = low.numel()
        self.num_outputs = 2 * self.num_noise
        self._low_A, self._high_A = low, high
        self._centre_A, self._scale_A = (high + low) / 2, (high - low) / 2

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw standard normal variables."""
        return out.normal_(generator=generator)

    def params(self, outputs: Tensor, obs: Tensor) -> Tensor:
        """Make the deviations positive."""
        mean, raw = outputs.float().chunk(2, -1)
        return torch.cat([mean, torch.nn.functional.softplus(raw) + SMALLEST_STD], -1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Squash mean + std * noise."""
        mean, std = params.chunk(2, -1)
        return self._centre_A + self._scale_A * torch.tanh(torch.addcmul(mean, std, noise))

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """An action of noise for each particle."""
        return num_particles, self.num_noise

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Draw standard normal variables that are truncated to the bounds."""
        bottom, top = torch.special.ndtr(self._low_A), torch.special.ndtr(self._high_A)
        out.uniform_(generator=generator)
        return out.copy_(torch.special.ndtri(bottom + out * (top - bottom)))

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Blend the actions with those of the noise."""
        action_NKA = self.sample(params_NP.unsqueeze(1), noise_NKZ)
        if fraction == 0:
            return action_NKA
        return ((1 - fraction) * action_NKA + fraction * root_noise).clamp(self._low_A, self._high_A)

    def log_prob(self, params_BP: Tensor, action_BKA: Tensor) -> Tensor:
        """Density of the squashed variable; near a bound, the mass beyond divided by the width of the edge.

            log pi(a) = sum_d log N(x; mean, std) - log(1 - tanh(x)^2) - log scale,   x = atanh((a - centre) / scale)

        so that the gradient stays finite where the squashed density does not.
        """
        mean_B1A, std_B1A = (part.unsqueeze(-2) for part in params_BP.chunk(2, -1))
        y = (action_BKA - self._centre_A) / self._scale_A
        inside = y.clamp(-1 + EDGE, 1 - EDGE)
        x = torch.atanh(inside)
        z = (x - mean_B1A) / std_B1A
        density = -0.5 * z.square() - std_B1A.log() - 0.5 * math.log(2 * math.pi) - torch.log1p(-inside.square())
        # log_ndtr is the log of the normal distribution function, precise far out in its tails
        tail = torch.special.log_ndtr(torch.where(y > 0, -z, z)) - math.log(EDGE)
        log_prob = torch.where(y.abs() > 1 - EDGE, tail, density) - self._scale_A.log()
        return log_prob.sum(-1)

    def best(self, action_NKA: Tensor, weight_NK: Tensor) -> Tensor:
        """The weighted mean."""
        return (weight_NK.unsqueeze(-1) * action_NKA).sum(-2)
