"""What the critic shall learn from a stream of replayed steps: generalised advantages with the target critic's values.

Shapes: R rollouts in the order of time, T horizon, S = T + 1, N environments, L steps of a stream.
"""

import torch
from torch import Tensor

__all__ = ["discounted_sums", "stream_targets"]


def stream_targets(
    value_RSN: Tensor,
    reward_RTN: Tensor,
    terminated_RTN: Tensor,
    truncated_RTN: Tensor,
    valid_RTN: Tensor,
    goes_on_RN: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Value targets of all rollouts, as one stream.

        delta_t = r_t + gamma (1 - terminated_t) V(s_t+1) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_t+1,  0 at the end of the stream
        y_t     = V(s_t) + A_t

    Args:
        value_RSN: V of each rollout's observations, the one that follows it included.
        reward_RTN: r.
        terminated_RTN: the episode ended in the task's own terms.
        truncated_RTN: it was cut.
        valid_RTN: false on dummies, of which the target means nothing.
        goes_on_RN: the next rollout begins where this one ends; false for the last.
        gamma: discount factor.
        gae_lambda: weight of longer returns.

    Returns:
        y, [R, T, N].
    """
    next_value_RTN = value_RSN[:, 1:].masked_fill(terminated_RTN, 0.0)
    delta_RTN = (reward_RTN + gamma * next_value_RTN - value_RSN[:, :-1]).masked_fill(~valid_RTN, 0.0)
    follows_RTN = ~(terminated_RTN | truncated_RTN) & valid_RTN
    last_RN = follows_RTN[:, -1] & goes_on_RN
    follows_RTN = torch.cat([follows_RTN[:, :-1], last_RN.unsqueeze(1)], 1)
    decay_RTN = follows_RTN.to(delta_RTN.dtype) * (gamma * gae_lambda)
    advantage_LN = discounted_sums(delta_RTN.flatten(0, 1), decay_RTN.flatten(0, 1))
    return advantage_LN.view_as(delta_RTN) + value_RSN[:, :-1]


def discounted_sums(delta_LN: Tensor, decay_LN: Tensor) -> Tensor:
    """Solve A_t = delta_t + decay_t A_t+1 from 0 after the end, in log2(L) rounds of doubled reach."""
    sum_LN, reach_LN, span = delta_LN, decay_LN, 1
    while span < len(delta_LN):
        head = len(delta_LN) - span
        sum_LN = torch.cat([torch.addcmul(sum_LN[:head], reach_LN[:head], sum_LN[span:]), sum_LN[head:]])
        reach_LN = torch.cat([reach_LN[:head] * reach_LN[span:], torch.zeros_like(reach_LN[head:])])
        span *= 2
    return sum_LN
