"""What SPO learns, and what moves it: networks, multipliers, and an optimiser for each of what moves by itself."""

import torch

from trainers.config import SpoConfig, SpoSection
from trainers.envs import EnvSpec
from trainers.networks import ActorCritic
from trainers.optim import FlatAdam
from trainers.ranks import Ranks
from trainers.runtime import Runtime
from trainers.spo.duals import Duals
from trainers.spo.policies import SearchPolicy
from trainers.spo.step import Optimizers

__all__ = ["make_duals", "make_network", "make_optimizers"]


def make_network(spec: EnvSpec, policy: SearchPolicy, config: SpoConfig, runtime: Runtime) -> ActorCritic:
    """Actor and critic, which share no layers; equal on all devices and ranks."""
    architecture = config.architecture
    return ActorCritic(
        spec.obs,
        policy.num_outputs,
        hidden_sizes=architecture.hidden_sizes,
        activation=architecture.activation,
        normalizes_obs=config.environment.normalize_obs,
        uses_bf16=config.hardware.precision == "bf16",
        generator=torch.Generator().manual_seed(runtime.seeds.network),
    ).to(runtime.device)


def make_duals(config: SpoSection, action_shape: tuple[int, ...]) -> Duals:
    """The temperature, and the alphas of choices or of a continuum."""
    is_learnt = config.adaptive_temperature
    learnt = {"temperature": (config.init_temperature, 1)} if is_learnt else {}
    fixed = {} if is_learnt else {"temperature": config.init_temperature}
    if action_shape == ():
        return Duals(fixed, **learnt, alpha=(config.init_alpha, 1))
    size = action_shape[0] if config.per_dim_constraining else 1
    alphas = {"alpha_mean": (config.init_alpha_mean, size), "alpha_stddev": (config.init_alpha_stddev, size)}
    return Duals(fixed, **learnt, **alphas)


def make_optimizers(network: ActorCritic, duals: Duals, config: SpoConfig, ranks: Ranks) -> Optimizers:
    """Adam for actor, critic and multipliers, each with a rate and a clip norm of its own."""
    optimization = config.optimization
    groups = (network.actor_parameters(), network.critic_parameters(), duals.parameters())
    rates = (optimization.actor_lr, optimization.critic_lr, optimization.dual_lr)
    return Optimizers._make(
        FlatAdam(
            [group],
            [rate],
            eps=optimization.adam_eps,
            max_grad_norm=optimization.max_grad_norm,
            mean_over_ranks=ranks.mean if ranks.size > 1 else None,
        )
        for group, rate in zip(groups, rates, strict=True)
    )
