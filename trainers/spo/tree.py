"""Exact search: every action sequence of a deterministic model, weighted by its probability.

This is what particles tend to as their number grows, without their noise. It pays where the tree is small: all
A + A^2 + ... + A^H nodes are judged once, where K particles would judge K * H, many of them more than once.
Shapes: H depth, N environments, A actions, M = A^H futures, R rows of one level.
"""

import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.distributions import ILLEGAL
from trainers.simulators import Simulator, State
from trainers.spo.futures import Futures, Network, advance
from trainers.spo.noise import SearchNoise
from trainers.spo.policies import DiscretePolicy
from trainers.spo.search import Depth, SearchResult
from trainers.spo.weights import entropy

__all__ = ["num_nodes", "search_tree"]


def num_nodes(num_actions: int, search_depth: int) -> int:
    """Nodes below the root: A + A^2 + ... + A^H."""
    return sum(num_actions**depth for depth in range(1, search_depth + 1))


def search_tree(
    network: Network,
    policy: DiscretePolicy,
    simulator: Simulator,
    settings: SearchConfig,
    temperature: Tensor,
    root: State,
    root_obs_NO: Tensor,
    noise: SearchNoise,
) -> SearchResult:
    """Enumerate all futures of H steps; arguments and result as of `search`, with every action as an atom.

    w_m  = softmax(log pi(a_0 .. a_H-1) + G_m / temperature)      G: the advantages summed, as in `search`
    q(a) = sum of w_m over the futures that begin with a
    """
    num_envs, num_actions = len(root_obs_NO), policy.num_outputs
    gamma, decay = settings.search_gamma, settings.search_gamma * settings.search_gae_lambda
    params_NP = policy.params(network.policy(root_obs_NO))
    params_RP = policy.mixed(params_NP, noise.root, settings.root_noise_fraction)
    value_N = network.value(root_obs_NO).float()
    futures = Futures(root, value_N, torch.ones_like(value_N, dtype=torch.bool))
    log_prior_R = log_weight_R = advantage_R = torch.zeros_like(value_N)
    depths: list[Depth] = []
    for t in range(settings.search_depth):
        log_prior_R = (log_prior_R.unsqueeze(1) + _without_illegal(params_RP)).flatten()
        action_R = torch.arange(num_actions, device=value_N.device).repeat(len(params_RP))
        model_noise_R0 = value_N.new_zeros(len(action_R), 0)
        futures, obs_RO, delta_R, _ = advance(
            network, simulator, futures.repeat(num_actions), policy.to_env(action_R), model_noise_R0, gamma
        )
        log_weight_R = log_weight_R.repeat_interleave(num_actions) + gamma**t * delta_R
        advantage_R = advantage_R.repeat_interleave(num_actions) + decay**t * delta_R
        score_R = torch.where(log_prior_R > -torch.inf, log_prior_R + log_weight_R / temperature, -torch.inf)
        weight_NM = torch.softmax(score_R.view(num_envs, -1), -1)
        log_prior_NM = log_prior_R.view(num_envs, -1)
        depths.append(_describe(weight_NM, log_prior_NM, futures.is_alive.view(num_envs, -1)))
        if t < settings.search_depth - 1:
            params_RP = policy.params(network.policy(obs_RO))
    return SearchResult(
        action=torch.arange(num_actions, device=value_N.device).expand(num_envs, -1),
        weight=weight_NM.view(num_envs, num_actions, -1).sum(-1),
        advantage=torch.where(log_prior_R > -torch.inf, advantage_R, 0.0).view(num_envs, -1),
        log_prior=log_prior_NM,
        value=value_N,
        depths=tuple(depths),
    )


def _without_illegal(params_RP: Tensor) -> Tensor:
    """Nothing that the model says of an illegal action may count, however loud."""
    return params_RP.masked_fill(params_RP < ILLEGAL / 2, -torch.inf)


def _describe(weight_NM: Tensor, log_prior_NM: Tensor, is_alive_NM: Tensor) -> Depth:
    """As many particles would see it: the share of their effective sample size is 1 / sum(w^2 / prior)."""
    ratio_NM = torch.where(weight_NM > 0, weight_NM.square() * torch.exp(-log_prior_NM), 0.0)
    ess_fraction_N = ratio_NM.sum(-1).reciprocal()
    return Depth(
        ess_fraction_N,
        entropy(weight_NM),
        (log_prior_NM.exp() * is_alive_NM).sum(-1),
        torch.zeros_like(ess_fraction_N),
    )
