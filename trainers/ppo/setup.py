"""From a task and a configuration to what a learner consists of: the family of its policy, and the networks."""

import numpy as np
import torch

from trainers.config import ArchitectureConfig, PpoConfig
from trainers.distributions import Distribution, make_distribution
from trainers.envs import EnvSpec
from trainers.errors import ConfigError
from trainers.networks import ActorCritic

__all__ = ["action_distribution", "make_network"]


def action_distribution(spec: EnvSpec, device: torch.device, architecture: ArchitectureConfig) -> Distribution:
    """Return the family of the policy's distributions.

    Raises:
        ConfigError: actions are to be squashed into bounds that they have not.
    """
    action = spec.action
    if not architecture.squash_actions or action.kind != "continuous":
        return make_distribution(action.kind, action.sizes)
    bounds = action.low.reshape(-1).tolist(), action.high.reshape(-1).tolist()
    if not np.isfinite(bounds).all():
        raise ConfigError(
            f"architecture.squash_actions: got true for {spec.task}, whose actions lie in {bounds}; expected finite "
            "bounds to squash them into. Set it to false."
        )
    return make_distribution(action.kind, action.sizes, bounds, device)


def make_network(spec: EnvSpec, distribution: Distribution, config: PpoConfig, seed: int) -> ActorCritic:
    """Return new networks, on the CPU, so that a seed gives the same weights on every device."""
    architecture = config.architecture
    return ActorCritic(
        spec.obs,
        distribution.num_outputs,
        num_free=distribution.num_free,
        free_init=architecture.init_log_std,
        hidden_sizes=architecture.hidden_sizes,
        activation=architecture.activation,
        shared=architecture.shared,
        normalizes_obs=config.environment.normalize_obs,
        uses_bf16=config.hardware.precision == "bf16",
        generator=torch.Generator().manual_seed(seed),
    )
