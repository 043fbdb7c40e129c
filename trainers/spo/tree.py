"""Exact search: every action sequence of a deterministic model, weighted by its probability.

This is what particles tend to as their number grows, without their noise. It pays where the tree is small: all
A + A^2 + ... + A^H nodes are judged once, where K particles would judge K * H, many of them more than once.
Which nodes there are does not depend on the networks, so the tree is grown first, and all of it judged at once.
Shapes: H depth, N environments, A actions, M = A^H futures, R rows of one level, C = nodes below the root of all
environments, level by level, the A children of a node side by side; P nodes that have children, the root's N first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.config import SearchConfig
from trainers.distributions import ILLEGAL
from trainers.simulators import Simulator, State
from trainers.spo.futures import Network
from trainers.spo.noise import SearchNoise
from trainers.spo.policies import DiscretePolicy
from trainers.spo.search import Depth, SearchResult
from trainers.spo.weights import entropy

__all__ = ["num_nodes", "search_tree"]


class Level(NamedTuple):
    """All nodes at one depth.

    Attributes:
        obs: [R, O], how it looks there; where the future has ended, where it did.
        reward: [R], of the step that leads there.
        terminated: bool [R], whether that step ends the episode in the task's own terms.
        was_alive: bool [R], whether there was anything to step from.
        is_alive: bool [R], whether the episode goes on.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    was_alive: Tensor
    is_alive: Tensor


class Futures(NamedTuple):
    """Sums along the way to each node of one level; [N, R / N] each.

    Attributes:
        log_prior: the logarithm of the policy's probability; -inf where an action is illegal.
        log_weight: the advantages, discounted.
        advantage: the advantages, decayed by the search's lambda, too.
    """

    log_prior: Tensor
    log_weight: Tensor
    advantage: Tensor


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
    levels = _grow(policy, simulator, root, settings.search_depth)
    inner_PO = torch.cat([root_obs_NO, *(level.obs for level in levels[:-1])])
    value = network.value(torch.cat([inner_PO, levels[-1].obs])).float()
    params_PA = policy.params(network.policy(inner_PO))
    mixed_NA = policy.mixed(params_PA[:num_envs], noise.root, settings.root_noise_fraction)
    log_prior_C = _without_illegal(torch.cat([mixed_NA, params_PA[num_envs:]])).flatten()
    delta_C = _advantages(levels, value, num_envs, num_actions, settings.search_gamma)

    sizes = [len(level.obs) for level in levels]
    along = _sum_along(settings, torch.split(log_prior_C, sizes), torch.split(delta_C, sizes), num_envs)
    weights = [_weigh(futures, temperature) for futures in along]
    depths = [_describe(*parts) for parts in zip(weights, along, levels, strict=True)]
    last = along[-1]
    return SearchResult(
        action=torch.arange(num_actions, device=value.device).expand(num_envs, -1),
        weight=weights[-1].view(num_envs, num_actions, -1).sum(-1),
        advantage=torch.where(last.log_prior > -torch.inf, last.advantage, 0.0),
        log_prior=last.log_prior,
        value=value[:num_envs],
        depths=tuple(depths),
    )


def _grow(policy: DiscretePolicy, simulator: Simulator, root: State, depth: int) -> list[Level]:
    """Play every action sequence; no network is asked."""
    num_actions = policy.num_outputs
    levels: list[Level] = []
    state, is_alive_R = root, torch.ones_like(root.elapsed, dtype=torch.bool)
    every_A = torch.arange(num_actions, device=root.elapsed.device)
    for _ in range(depth):
        action_R = every_A.repeat(len(is_alive_R))
        before, was_alive_R = state.repeat(num_actions), is_alive_R.repeat_interleave(num_actions)
        no_noise_R0 = before.model.new_zeros(len(action_R), 0)
        transition = simulator.step(before, policy.to_env(action_R), no_noise_R0)
        state = transition.state.where(was_alive_R, before)
        is_alive_R = was_alive_R & ~(transition.terminated | transition.truncated)
        obs_RO = simulator.observe(state)
        levels.append(Level(obs_RO, transition.reward, transition.terminated, was_alive_R, is_alive_R))
    return levels


def _advantages(levels: list[Level], value: Tensor, num_envs: int, num_actions: int, gamma: float) -> Tensor:
    """r + gamma (1 - terminated) V(s') - V(s) of every step; 0 after the end, whatever anyone says of it; [C].

    Args:
        levels: the tree.
        value: [N + C], the root's first.
        num_envs: N.
        num_actions: A.
        gamma: the search's discount.
    """
    reward_C, terminated_C, was_alive_C = (
        torch.cat([getattr(level, name) for level in levels]) for name in ("reward", "terminated", "was_alive")
    )
    value_C, value_P = value[num_envs:], value[: len(reward_C) // num_actions]
    bootstrap_C = gamma * value_C.masked_fill(terminated_C, 0.0)
    return (reward_C + bootstrap_C - value_P.repeat_interleave(num_actions)).masked_fill(~was_alive_C, 0.0)


def _sum_along(
    settings: SearchConfig, log_prior: Sequence[Tensor], delta: Sequence[Tensor], num_envs: int
) -> list[Futures]:
    """Add up what the steps bring, from the root to each node.

    Args:
        settings: the discounts.
        log_prior: [R] of each level, of the step that leads there.
        delta: likewise, its advantage.
        num_envs: N.
    """
    gamma, decay = settings.search_gamma, settings.search_gamma * settings.search_gae_lambda
    nothing_N1 = delta[0].new_zeros(num_envs, 1)
    futures = Futures(nothing_N1, nothing_N1, nothing_N1)
    along: list[Futures] = []
    for t, (log_prior_R, delta_R) in enumerate(zip(log_prior, delta, strict=True)):
        steps = (log_prior_R, gamma**t * delta_R, decay**t * delta_R)
        pairs = zip(futures, steps, strict=True)
        futures = Futures(*[(sum_.unsqueeze(-1) + step.view(*sum_.shape, -1)).flatten(1) for sum_, step in pairs])
        along.append(futures)
    return along


def _weigh(futures: Futures, temperature: Tensor) -> Tensor:
    """softmax(log prior + advantages / temperature) over each environment's futures; [N, R / N]."""
    score = futures.log_prior + futures.log_weight / temperature
    return torch.softmax(torch.where(futures.log_prior > -torch.inf, score, -torch.inf), -1)


def _without_illegal(params_PA: Tensor) -> Tensor:
    """Nothing that the model says of an illegal action may count, however loud."""
    return params_PA.masked_fill(params_PA < ILLEGAL / 2, -torch.inf)


def _describe(weight_NM: Tensor, futures: Futures, level: Level) -> Depth:
    """As many particles would see it: the share of their effective sample size is 1 / sum(w^2 / prior)."""
    prior_NM = futures.log_prior.exp()
    ratio_NM = torch.where(weight_NM > 0, weight_NM.square() / prior_NM, 0.0)
    ess_fraction_N = ratio_NM.sum(-1).reciprocal()
    return Depth(
        ess_fraction_N,
        entropy(weight_NM),
        (prior_NM * level.is_alive.view_as(prior_NM)).sum(-1),
        torch.zeros_like(ess_fraction_N),
    )
