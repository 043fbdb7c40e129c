"""The particles of a search, and how the good ones take the places of the poor ones.

Shapes: N environments, K particles, R = N * K rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.simulators import State
from trainers.spo.futures import Futures
from trainers.spo.weights import resample, systematic

__all__ = ["Particles", "is_resampling_due", "select_survivors", "set_out"]


class Particles(NamedTuple):
    """The particles of all environments.

    Attributes:
        futures: R of them, where each has come to.
        root_action: [R] or [R, A], what each has done first.
        log_weight: [N, K].
        advantage: [N, K], what the temperature learns from: it ends with an environment's first resampling, which
            copies what it prefers.
        is_first_line: bool [N, 1], whether there was none yet.
    """

    futures: Futures
    root_action: Tensor
    log_weight: Tensor
    advantage: Tensor
    is_first_line: Tensor


def set_out(root: State, value_N: Tensor, root_action_R: Tensor, num_particles: int) -> Particles:
    """All particles of an environment at its root."""
    is_alive_N = torch.ones_like(value_N, dtype=torch.bool)
    nothing_NK = value_N.new_zeros(len(value_N), num_particles)
    futures = Futures(root, value_N, is_alive_N).repeat(num_particles)
    return Particles(futures, root_action_R, nothing_NK, nothing_NK, is_alive_N.unsqueeze(1))


def is_resampling_due(settings: SearchConfig, t: int, ess_N: Tensor) -> Tensor | None:
    """Which environments resample after depth t, bool [N, 1]; None where it is known beforehand that none does.

    After the last depth it would only blur the weights, which are the target.
    """
    is_last = t == settings.search_depth - 1
    if settings.resampling == "none" or (is_last and "readout" not in settings.reference):
        return None
    if settings.resampling == "ess":
        return (ess_N < settings.ess_threshold * settings.num_particles).unsqueeze(1)
    is_due = (t + 1) % settings.resampling_period == 0
    return torch.ones_like(ess_N, dtype=torch.bool).unsqueeze(1) if is_due else None


def select_survivors(
    settings: SearchConfig,
    particles: Particles,
    obs_RO: Tensor,
    weight_NK: Tensor,
    is_due_N1: Tensor,
    noise: Tensor,
) -> tuple[Particles, Tensor]:
    """Let good particles take the places of poor ones; returns how it looks where they are, too."""
    row_R = _survivors(settings, weight_NK, is_due_N1, noise)
    resampled = particles._replace(
        futures=particles.futures.select(row_R),
        root_action=particles.root_action.index_select(0, row_R),
        log_weight=particles.log_weight.masked_fill(is_due_N1, 0.0),
    )
    if "lineage" in settings.reference:
        return resampled, obs_RO
    return resampled._replace(is_first_line=particles.is_first_line & ~is_due_N1), obs_RO.index_select(0, row_R)


def _survivors(settings: SearchConfig, weight_NK: Tensor, is_due_N1: Tensor, noise: Tensor) -> Tensor:
    """The row from which each particle goes on: its own, or one drawn by weight; int64 [R]."""
    num_envs, num_particles = weight_NK.shape
    point_NK = noise if "resampler" in settings.reference else systematic(noise, num_particles)
    own_K = torch.arange(num_particles, device=weight_NK.device)
    index_NK = torch.where(is_due_N1, resample(weight_NK, point_NK), own_K)
    return (index_NK + num_particles * torch.arange(num_envs, device=weight_NK.device).unsqueeze(1)).flatten()
