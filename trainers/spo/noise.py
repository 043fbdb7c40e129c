"""All random numbers of a search, drawn up front into buffers that stay where they are.

Shapes: H depth, N environments, K particles, Z noise of an action or of a model's step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.spo.policies import SearchPolicy

__all__ = ["SearchNoise"]


class SearchNoise(NamedTuple):
    """What chance decides in one search; or, with further dimensions in front, in many.

    Attributes:
        action: [H, N, K, Z], in the policy's own distribution.
        model: uniform [H, N, K, Z].
        resample: uniform [H, N, 1] or, multinomial, [H, N, K].
        root: [N, ...], in the policy's own distribution; empty where the root does not explore.
        readout: uniform [N, 1].
    """

    action: Tensor
    model: Tensor
    resample: Tensor
    root: Tensor
    readout: Tensor

    @classmethod
    def allocate(
        cls,
        num_envs: int,
        policy: SearchPolicy,
        settings: SearchConfig,
        num_model_noise: int,
        device: torch.device,
        leading: Sequence[int] = (),
    ) -> "SearchNoise":
        """Make room."""
        num_particles = settings.num_particles
        particles = (settings.search_depth, num_envs, num_particles)
        root = policy.root_noise_shape(num_particles) if settings.root_noise_fraction > 0 else (0,)
        shapes = (
            (*particles, policy.num_noise),
            (*particles, num_model_noise),
            (settings.search_depth, num_envs, num_particles if "resampler" in settings.reference else 1),
            (num_envs, *root),
            (num_envs, 1),
        )
        return cls(*[torch.zeros((*leading, *shape), device=device) for shape in shapes])

    def draw_(self, policy: SearchPolicy, concentration: float, generator: torch.Generator) -> "SearchNoise":
        """Fill everything in place."""
        policy.draw_noise_(self.action, generator)
        for uniform in (self.model, self.resample, self.readout):
            uniform.uniform_(generator=generator)
        if self.root.numel():
            policy.draw_root_noise_(self.root, concentration, generator)
        return self

    def part(self, t: int, envs: slice) -> "SearchNoise":
        """What some environments take at step t, where t is the first dimension."""
        return SearchNoise(
            self.action[t][:, envs],
            self.model[t][:, envs],
            self.resample[t][:, envs],
            self.root[t][envs],
            self.readout[t][envs],
        )
