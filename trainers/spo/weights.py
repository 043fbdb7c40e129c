"""Importance weights of particles, and how much they are worth.

Shapes: N environments, K particles.
Source: Doucet and Johansen 2009, A Tutorial on Particle Filtering and Smoothing, section 3.
"""

from typing import Final

import torch
from torch import Tensor

__all__ = ["effective_sample_size", "entropy", "normalize", "resample", "systematic"]

LARGEST_BELOW_1: Final = 1.0 - 2.0**-24
"""In float32, where K - 1 + u may round up to K."""


def normalize(log_weight_NK: Tensor, temperature: Tensor) -> Tensor:
    """w = softmax(log w / temperature) over the particles; float32, the largest subtracted first."""
    return torch.softmax(log_weight_NK.float() / temperature, -1)


def effective_sample_size(weight_NK: Tensor) -> Tensor:
    """1 / sum w^2, from 1 (one particle has it all) to K (all are equal); [N]."""
    return weight_NK.square().sum(-1).reciprocal()


def entropy(weight_NK: Tensor) -> Tensor:
    """-sum w log w, from 0 to log K; [N]."""
    term_NK: Tensor = torch.special.entr(weight_NK)
    return term_NK.sum(-1)


def systematic(noise_N1: Tensor, num_particles: int) -> Tensor:
    """Evenly spaced points with one random offset, (i + u) / K: the fewest surprises; [N, K]."""
    ladder_K = torch.arange(num_particles, device=noise_N1.device, dtype=noise_N1.dtype)
    return ((ladder_K + noise_N1) / num_particles).clamp(max=LARGEST_BELOW_1)


def resample(weight_NK: Tensor, point_NM: Tensor) -> Tensor:
    """The particle in whose part of [0, 1) each point falls; one of weight 0 is never chosen; int64 [N, M].

    Points of `systematic` make systematic resampling, independent uniform ones multinomial.
    """
    cdf_NK = weight_NK.cumsum(-1)
    cdf_NK = cdf_NK / cdf_NK[..., -1:]
    index_NM = torch.searchsorted(cdf_NK, point_NM.contiguous(), right=True)
    return index_NM.clamp(max=weight_NK.shape[-1] - 1)
