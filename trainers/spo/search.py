"""Search by particles: sequential Monte Carlo over the futures of every environment (SPO's E-step).

Each particle is a possible future, drawn from the policy and played in the simulator; its weight grows with the
advantage that it has found. Resampling drops poor particles and doubles good ones, whole: state, root action and all.
Shapes: H depth, N environments, K particles, M futures, R = N * K rows, P parameters of a policy.
Source: Macfarlane et al. 2024, SPO: Sequential Monte Carlo Policy Optimisation, section 4.1; `Correction` in
config/spo.py says where the reference implementation deviates.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.simulators import Simulator, State
from trainers.spo.futures import Futures, Network, advance
from trainers.spo.noise import SearchNoise
from trainers.spo.policies import SearchPolicy
from trainers.spo.weights import effective_sample_size, entropy, normalize, resample, systematic

__all__ = ["Depth", "SearchResult", "search"]


class Depth(NamedTuple):
    """What one depth of a search looked like in each environment; [N] each."""

    ess_fraction: Tensor
    entropy: Tensor
    alive_fraction: Tensor
    resample_rate: Tensor


class SearchResult(NamedTuple):
    """The improved policy of each environment: a weighted set of first actions.

    Attributes:
        action: [N, K] or [N, K, A], the root action of each particle, or every action there is, as the policy keeps it.
        weight: [N, K], sum 1.
        advantage: [N, M], of futures that are distributed as the policy's own; the temperature learns from them.
        log_prior: [N, M], the logarithm of their probabilities: -log M each where they were drawn.
        value: [N], the critic's judgement of the root.
        depths: what each depth looked like.
    """

    action: Tensor
    weight: Tensor
    advantage: Tensor
    log_prior: Tensor
    value: Tensor
    depths: tuple[Depth, ...]


def search(
    network: Network,
    policy: SearchPolicy,
    simulator: Simulator,
    settings: SearchConfig,
    temperature: Tensor,
    root: State,
    root_obs_NO: Tensor,
    noise: SearchNoise,
) -> SearchResult:
    """Look H steps ahead with K particles in every environment; no host sync, static shapes.

        delta  = r + gamma (1 - terminated) V(s') - V(s)       while a particle is alive, else 0
        log w += gamma^t delta
        A     += (gamma lambda)^t delta                        until the first resampling of its environment
        w      = softmax(log w / temperature)                  resampling by w puts log w back to 0

    Without resampling, log w is the discounted return, bootstrapped at its end, less V(root).

    Args:
        network: the online actor and critic.
        policy: what the actor's outputs mean.
        simulator: the environments' model.
        settings: sizes and rules.
        temperature: eta, 0-d.
        root: the N live situations.
        root_obs_NO: how they look.
        noise: all that is left to chance.
    """
    num_envs, num_particles = len(root_obs_NO), settings.num_particles
    gamma, decay = settings.search_gamma, settings.search_gamma * settings.search_gae_lambda
    taken_back = settings.reference

    params_NP = policy.params(network.policy(root_obs_NO))
    value_N = network.value(root_obs_NO).float()
    root_action_NK = policy.explore(params_NP, noise.action[0], noise.root, settings.root_noise_fraction)
    root_action_R = action_R = root_action_NK.flatten(0, 1)
    futures = Futures(root, value_N, torch.ones_like(value_N, dtype=torch.bool)).repeat(num_particles)

    log_weight_NK = advantage_NK = value_N.new_zeros(num_envs, num_particles)
    is_first_line_N1 = torch.ones(num_envs, 1, dtype=torch.bool, device=value_N.device)
    depths: list[Depth] = []
    for t in range(settings.search_depth):
        model_noise_RZ = noise.model[t].flatten(0, 1)
        futures, obs_RO, delta_R, terminated_R = advance(
            network,
            simulator,
            futures,
            policy.to_env(action_R),
            model_noise_RZ,
            gamma,
            discounts_baseline="baseline" in taken_back,
        )
        log_weight_NK = log_weight_NK + gamma**t * delta_R.view(num_envs, num_particles)
        if t > 0 and "terminals" in taken_back:
            delta_R = delta_R.masked_fill(terminated_R, 0.0)
        gained_NK = decay**t * delta_R.view(num_envs, num_particles)
        advantage_NK = advantage_NK + torch.where(is_first_line_N1, gained_NK, 0.0)

        weight_NK = normalize(log_weight_NK, temperature)
        is_due_N1 = _is_resampling_due(settings, t, weight_NK)
        depths.append(_describe(weight_NK, futures.is_alive.view(weight_NK.shape), is_due_N1))
        if is_due_N1 is not None:
            row_R = _survivors(settings, weight_NK, is_due_N1, noise.resample[t])
            futures, root_action_R = futures.select(row_R), root_action_R.index_select(0, row_R)
            log_weight_NK = log_weight_NK.masked_fill(is_due_N1, 0.0)
            if "lineage" not in taken_back:
                obs_RO, is_first_line_N1 = obs_RO.index_select(0, row_R), is_first_line_N1 & ~is_due_N1
        if t < settings.search_depth - 1:
            params_RP = policy.params(network.policy(obs_RO))
            action_R = policy.sample(params_RP, noise.action[t + 1].flatten(0, 1))
    return SearchResult(
        action=root_action_R.view(root_action_NK.shape),
        weight=normalize(log_weight_NK, temperature),
        advantage=advantage_NK,
        log_prior=torch.full_like(advantage_NK, -math.log(num_particles)),
        value=value_N,
        depths=tuple(depths),
    )


def _is_resampling_due(settings: SearchConfig, t: int, weight_NK: Tensor) -> Tensor | None:
    """Which environments resample after depth t, bool [N, 1]; None where it is known beforehand that none does.

    After the last depth it would only blur the weights, which are the target.
    """
    is_last = t == settings.search_depth - 1
    if settings.resampling == "none" or (is_last and "readout" not in settings.reference):
        return None
    ess_N1 = effective_sample_size(weight_NK).unsqueeze(1)
    if settings.resampling == "ess":
        return ess_N1 < settings.ess_threshold * settings.num_particles
    return torch.ones_like(ess_N1, dtype=torch.bool) if (t + 1) % settings.resampling_period == 0 else None


def _survivors(settings: SearchConfig, weight_NK: Tensor, is_due_N1: Tensor, noise: Tensor) -> Tensor:
    """The row from which each particle goes on: its own, or one drawn by weight; int64 [R]."""
    num_envs, num_particles = weight_NK.shape
    point_NK = noise if "resampler" in settings.reference else systematic(noise, num_particles)
    own_K = torch.arange(num_particles, device=weight_NK.device)
    index_NK = torch.where(is_due_N1, resample(weight_NK, point_NK), own_K)
    return (index_NK + num_particles * torch.arange(num_envs, device=weight_NK.device).unsqueeze(1)).flatten()


def _describe(weight_NK: Tensor, is_alive_NK: Tensor, is_due_N1: Tensor | None) -> Depth:
    """Look at the weights before resampling."""
    ess_N = effective_sample_size(weight_NK)
    return Depth(
        ess_N / weight_NK.shape[1],
        entropy(weight_NK),
        is_alive_NK.float().mean(-1),
        torch.zeros_like(ess_N) if is_due_N1 is None else is_due_N1.squeeze(1).float(),
    )
