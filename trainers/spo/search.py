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
from trainers.spo.futures import Network, advance
from trainers.spo.noise import SearchNoise
from trainers.spo.particles import Particles, is_resampling_due, select_survivors, set_out
from trainers.spo.policies import SearchPolicy
from trainers.spo.weights import effective_sample_size, entropy, normalize

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
    value_N = network.value(root_obs_NO).float()
    params_NP = policy.params(network.policy(root_obs_NO))
    root_action_NK = policy.explore(params_NP, noise.action[0], noise.root, settings.root_noise_fraction)
    action_R = root_action_NK.flatten(0, 1)
    particles = set_out(root, value_N, action_R, settings.num_particles)
    depths: list[Depth] = []
    for t in range(settings.search_depth):
        action = policy.to_env(action_R)
        particles, obs_RO = _play(network, simulator, settings, particles, action, noise.model[t].flatten(0, 1), t)
        weight_NK = normalize(particles.log_weight, temperature)
        ess_N = effective_sample_size(weight_NK)
        is_due_N1 = is_resampling_due(settings, t, ess_N)
        depths.append(_describe(weight_NK, ess_N, particles.futures.is_alive, is_due_N1))
        if is_due_N1 is not None:
            particles, obs_RO = select_survivors(settings, particles, obs_RO, weight_NK, is_due_N1, noise.resample[t])
        if t < settings.search_depth - 1:
            params_RP = policy.params(network.policy(obs_RO))
            action_R = policy.sample(params_RP, noise.action[t + 1].flatten(0, 1))
    return SearchResult(
        action=particles.root_action.view(root_action_NK.shape),
        weight=normalize(particles.log_weight, temperature),
        advantage=particles.advantage,
        log_prior=torch.full_like(particles.advantage, -math.log(settings.num_particles)),
        value=value_N,
        depths=tuple(depths),
    )


def _play(
    network: Network,
    simulator: Simulator,
    settings: SearchConfig,
    particles: Particles,
    action: Tensor,
    noise_RZ: Tensor,
    t: int,
) -> tuple[Particles, Tensor]:
    """Take step t with each particle; returns how it looks where they are, too."""
    gamma, decay = settings.search_gamma, settings.search_gamma * settings.search_gae_lambda
    is_baseline_discounted = "baseline" in settings.reference
    step = advance(
        network, simulator, particles.futures, action, noise_RZ, gamma, discounts_baseline=is_baseline_discounted
    )
    shape, delta_R = particles.log_weight.shape, step.delta
    log_weight_NK = particles.log_weight + gamma**t * delta_R.view(shape)
    if t > 0 and "terminals" in settings.reference:
        delta_R = delta_R.masked_fill(step.terminated, 0.0)
    gained_NK = torch.where(particles.is_first_line, decay**t * delta_R.view(shape), 0.0)
    played = particles._replace(
        futures=step.futures, log_weight=log_weight_NK, advantage=particles.advantage + gained_NK
    )
    return played, step.obs


def _describe(weight_NK: Tensor, ess_N: Tensor, is_alive_R: Tensor, is_due_N1: Tensor | None) -> Depth:
    """Look at the weights before resampling."""
    return Depth(
        ess_N / weight_NK.shape[1],
        entropy(weight_NK),
        is_alive_R.view_as(weight_NK).float().mean(-1),
        torch.zeros_like(ess_N) if is_due_N1 is None else is_due_N1.squeeze(1).float(),
    )
