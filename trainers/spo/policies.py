"""What a search and its losses need of a policy: drawing, judging and choosing actions.

The parameters come from the network: log-probabilities, or means and deviations of a normal variable that is squashed
into the action's bounds. Actions are kept as the policy draws them; `to_env` gives them the environment's form.
Shapes: N environments, B batch, K atoms (particles or root actions), P parameters, Z noise, A actions or dimensions.
"""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from trainers.distributions import ILLEGAL
from trainers.spo.weights import resample

__all__ = ["DiscretePolicy", "SearchPolicy", "SquashedGaussianPolicy"]

SMALLEST_STD: Final = 1e-3
EDGE: Final = 1e-3
"""Actions that exploration has moved stay so far from their bounds, half the range being 1, that tanh can be undone."""


class SearchPolicy(Protocol):
    """A family of action distributions."""

    @property
    def num_outputs(self) -> int:
        """P, numbers that the network computes."""

    @property
    def num_noise(self) -> int:
        """Z, random numbers of an action."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action as it is kept."""

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `out` [..., Z] in place."""

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """Of what one environment takes at the root, beside the noise of its actions, to explore."""

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Fill `out` [..., *root_noise_shape] in place."""

    def params(self, outputs: Tensor) -> Tensor:
        """Turn the network's outputs into parameters [..., P]."""

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Turn noise into actions, [...] or [..., A]."""

    def mode(self, params: Tensor) -> Tensor:
        """The most probable action of the policy alone."""

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Draw the K root actions, a fraction of what decides about them being noise; [N, K] or [N, K, A]."""

    def log_prob(self, params_BP: Tensor, action_BK: Tensor) -> Tensor:
        """log pi of K actions in each row, but for what does not depend on the parameters; [B, K]."""

    def masses(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The weights of a weighted set's different actions, [N, ...]."""

    def best(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The one action that stands for a weighted set, without chance, in the environment's form."""

    def to_env(self, action: Tensor) -> Tensor:
        """Give actions the environment's form."""


class DiscretePolicy:
    """One choice among A; parameters are log-probabilities. Several choices at once count as one among all pairs.

    Args:
        sizes: choices of each dimension of the environment's action; one number for one choice.
        is_joint: the environment's action has dimensions.
        device: of the parameters.
    """

    num_noise = 1
    action_shape: tuple[int, ...] = ()

    def __init__(self, sizes: Sequence[int], *, is_joint: bool = False, device: torch.device | str = "cpu") -> None:
        self.num_outputs = math.prod(sizes)
        choices = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).view(self.num_outputs, -1)
        self._choices = choices.to(device) if is_joint else None

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniform numbers."""
        return out.uniform_(generator=generator)

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """A probability for each action."""
        return (self.num_outputs,)

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Draw Gamma(concentration, 1), which becomes Dirichlet where it is divided by its sum."""
        gamma: Tensor = torch._standard_gamma(torch.full_like(out, concentration), generator)
        return out.copy_(gamma)

    def params(self, outputs: Tensor) -> Tensor:
        """Normalise."""
        return outputs.float().log_softmax(-1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Invert the cumulative distribution; a probability of 0 is never chosen."""
        return resample(params.exp(), noise).squeeze(-1)

    def mode(self, params: Tensor) -> Tensor:
        """The greatest; of equal ones the first."""
        return params.argmax(-1)

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Draw from the mixture with the Dirichlet noise."""
        params_N1P = self.mixed(params_NP, root_noise, fraction).unsqueeze(1)
        return self.sample(params_N1P.expand(*noise_NKZ.shape[:2], -1), noise_NKZ)

    def mixed(self, params_NP: Tensor, root_noise_NA: Tensor, fraction: float) -> Tensor:
        """log((1 - f) pi + f Dirichlet), with no noise on illegal actions; [N, A]."""
        if fraction == 0:
            return params_NP
        is_legal_NA = params_NP > ILLEGAL / 2
        noise_NA = torch.where(is_legal_NA, root_noise_NA, 0.0)
        mixture_NA = (1 - fraction) * params_NP.exp() + fraction * noise_NA / noise_NA.sum(-1, keepdim=True)
        return torch.where(is_legal_NA, mixture_NA.log(), params_NP)

    def log_prob(self, params_BP: Tensor, action_BK: Tensor) -> Tensor:
        """Look them up."""
        return params_BP.gather(-1, action_BK)

    def masses(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """q(a): the sum of the weights of each action; [N, A]."""
        nothing_NA = weight_NK.new_zeros(*weight_NK.shape[:-1], self.num_outputs)
        return nothing_NA.scatter_add(-1, action_NK, weight_NK)

    def best(self, action_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The action with the greatest sum of weights; of equal ones the first."""
        q_NA = self.masses(action_NK, weight_NK)
        is_best_NA = q_NA == q_NA.amax(-1, keepdim=True)
        order_A = torch.arange(self.num_outputs, device=q_NA.device)
        return self.to_env(torch.where(is_best_NA, order_A, self.num_outputs).amin(-1))

    def to_env(self, action: Tensor) -> Tensor:
        """Take a joint choice apart."""
        return action if self._choices is None else self._choices[action]


class SquashedGaussianPolicy:
    """a = centre + half width * tanh(u), u ~ Normal(mean, std); std = softplus(raw) + 1e-3.

    An action is kept as its u, of which the density is exact however near to a bound a lies. Parameters are A means
    and A standard deviations.

    Args:
        low: least value of each dimension; finite.
        high: greatest value.
        device: of the parameters.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float], device: torch.device | str = "cpu") -> None:
        self.num_noise = len(low)
        self.num_outputs = 2 * self.num_noise
        self.action_shape = (self.num_noise,)
        self._low_A, self._high_A = (torch.tensor(list(side), device=device) for side in (low, high))
        self._centre_A, self._half_width_A = (self._high_A + self._low_A) / 2, (self._high_A - self._low_A) / 2

    def draw_noise_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Draw standard normal variables."""
        return out.normal_(generator=generator)

    def root_noise_shape(self, num_particles: int) -> tuple[int, ...]:
        """An action of noise for each particle."""
        return num_particles, self.num_noise

    def draw_root_noise_(self, out: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
        """Draw standard normal variables that are truncated to the bounds."""
        bottom_A, top_A = torch.special.ndtr(self._low_A), torch.special.ndtr(self._high_A)
        out.uniform_(generator=generator)
        return out.copy_(torch.special.ndtri(bottom_A + out * (top_A - bottom_A)))

    def params(self, outputs: Tensor) -> Tensor:
        """Make the deviations positive."""
        mean, raw = outputs.float().chunk(2, -1)
        return torch.cat([mean, torch.nn.functional.softplus(raw) + SMALLEST_STD], -1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Mean + std * noise, not squashed."""
        mean, std = params.chunk(2, -1)
        return torch.addcmul(mean, std, noise)

    def mode(self, params: Tensor) -> Tensor:
        """The mean: the median of the squashed action, and what noise of 0 draws."""
        return params.chunk(2, -1)[0]

    def explore(self, params_NP: Tensor, noise_NKZ: Tensor, root_noise: Tensor, fraction: float) -> Tensor:
        """Blend the squashed actions with those of the noise."""
        u_NKA = self.sample(params_NP.unsqueeze(1), noise_NKZ)
        if fraction == 0:
            return u_NKA
        action_NKA = (1 - fraction) * self.to_env(u_NKA) + fraction * root_noise
        squashed_NKA = (action_NKA - self._centre_A) / self._half_width_A
        return torch.atanh(squashed_NKA.clamp(-1 + EDGE, 1 - EDGE))

    def log_prob(self, params_BP: Tensor, action_BKA: Tensor) -> Tensor:
        """-sum(z^2 / 2 + log std), z = (u - mean) / std."""
        mean_B1A, std_B1A = (part.unsqueeze(-2) for part in params_BP.chunk(2, -1))
        return -(0.5 * ((action_BKA - mean_B1A) / std_B1A).square() + std_B1A.log()).sum(-1)

    def masses(self, action_NKA: Tensor, weight_NK: Tensor) -> Tensor:
        """The weights themselves: no two actions are equal."""
        return weight_NK

    def best(self, action_NKA: Tensor, weight_NK: Tensor) -> Tensor:
        """The weighted mean of the squashed actions."""
        return (weight_NK.unsqueeze(-1) * self.to_env(action_NKA)).sum(-2)

    def to_env(self, action: Tensor) -> Tensor:
        """Squash u into the bounds."""
        return torch.addcmul(self._centre_A, self._half_width_A, torch.tanh(action))
