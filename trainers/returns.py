"""Advantages from one rollout, and how well the critic foresaw them: after collection, before the losses.

Shapes: T steps in the order of time, N envs, B rows.
"""

import torch
from torch import Tensor

__all__ = ["discounted_sum", "explained_variance", "gae"]


def gae(
    reward_TN: Tensor,
    value_TN: Tensor,
    next_value_TN: Tensor,
    terminated_TN: Tensor,
    truncated_TN: Tensor,
    valid_TN: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    follows_TN: Tensor | None = None,
) -> Tensor:
    """Estimate advantages under next-step autoreset.

        delta_t = r_t + gamma * (1 - terminated_t) * V(o_{t+1}) - V(o_t)
        A_t     = delta_t + gamma * lambda * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}

    The row after the end of an episode holds its true last observation, so V(o_{t+1}) is the bootstrap value of a
    truncated episode at no further cost. That row itself is a dummy (the environment ignores the action and resets):
    its advantage is 0, and whatever it holds, NaN included, reaches no other row.

    Args:
        reward_TN: r_t, float.
        value_TN: V(o_t) of the observation in which action t was taken, float.
        next_value_TN: V(o_{t+1}) of the observation that it led to.
        terminated_TN: the episode ended in the task's own terms; bool.
        truncated_TN: the episode was cut by a time limit; bool.
        valid_TN: false on dummy rows; bool.
        gamma: discount factor.
        gae_lambda: weight of longer returns; 0 is one-step, 1 is Monte Carlo.
        follows_TN: false where row t + 1 does not go on where row t ends, though no episode ended; bool. None: it
            does everywhere.

    Returns:
        A_t, float [T, N]. The value target of a valid row is A_t + V(o_t).

    Source:
        Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation, eq. 16.
    """
    assert value_TN.shape == next_value_TN.shape == reward_TN.shape, (value_TN.shape, reward_TN.shape)
    assert terminated_TN.shape == truncated_TN.shape == valid_TN.shape == reward_TN.shape
    with torch.no_grad():
        bootstrap_TN = gamma * next_value_TN.masked_fill(terminated_TN, 0.0)
        delta_TN = (reward_TN + bootstrap_TN - value_TN).masked_fill_(~valid_TN, 0.0)
        continues_TN = ~(terminated_TN | truncated_TN) & valid_TN
        if follows_TN is not None:
            continues_TN = continues_TN & follows_TN
        decay_TN = continues_TN.to(delta_TN.dtype).mul_(gamma * gae_lambda)
        return discounted_sum(delta_TN, decay_TN)


def discounted_sum(delta_TN: Tensor, decay_TN: Tensor) -> Tensor:
    """Solve A_t = delta_t + decay_t * A_{t+1} from A_T = 0.

    In log2(T) passes over all rows rather than T steps over one: after the pass with distance d, row t holds the sum of
    its first 2d terms, and decay the product of as many factors (Hillis and Steele 1986).
    """
    horizon, distance = delta_TN.shape[0], 1
    while distance < horizon:
        reached = horizon - distance
        sum_TN = torch.addcmul(delta_TN[:reached], decay_TN[:reached], delta_TN[distance:])
        delta_TN = torch.cat([sum_TN, delta_TN[reached:]])
        still = max(0, horizon - 2 * distance)
        decay_TN = decay_TN[:still] * decay_TN[distance : distance + still]
        distance *= 2
    return delta_TN


def explained_variance(value_B: Tensor, target_B: Tensor, valid_B: Tensor | None = None) -> Tensor:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 as good as a constant.

    Args:
        value_B: V.
        target_B: what V should have been.
        valid_B: 1, or 0 for rows that do not count, whatever they hold; None counts all.

    Returns:
        0-d, without gradient; NaN where it is undefined: there are no targets, or they are (all but) equal.
    """
    assert value_B.shape == target_B.shape
    with torch.no_grad():
        counts_B = torch.ones_like(target_B, dtype=torch.bool) if valid_B is None else valid_B > 0
        # not only by a variance above 0: that of equal numbers, whose mean is rounded, may be; and that of small ones
        # may round to 0
        lowest = torch.where(counts_B, target_B, torch.inf).amin()
        highest = torch.where(counts_B, target_B, -torch.inf).amax()
        both_2B = torch.stack([target_B - value_B, target_B])
        mean_21 = both_2B.masked_fill(~counts_B, 0.0).sum(1, keepdim=True) / counts_B.sum()
        error, total = (both_2B - mean_21).masked_fill(~counts_B, 0.0).square().sum(1)
        explained = 1.0 - error / total
        return torch.where((highest > lowest) & explained.isfinite(), explained, torch.nan)
