"""What the critic shall learn from a stream of replayed steps: generalised advantages with the target critic's values.

Shapes: R rollouts in the order of time, T horizon, S = T + 1, N environments, L steps of a stream.
"""

import torch
from torch import Tensor

from trainers.returns import gae

__all__ = ["stream_targets"]


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
    """Value targets of all rollouts, as one stream: y_t = V(s_t) + A_t, with A_t of `gae`, 0 at the end of the stream.

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
    follows_RTN = torch.ones_like(valid_RTN)
    follows_RTN[:, -1] = goes_on_RN
    value_RTN = value_RSN[:, :-1]
    rows_RTN = (reward_RTN, value_RTN, value_RSN[:, 1:], terminated_RTN, truncated_RTN, valid_RTN)
    advantage_LN = gae(
        *[rows.flatten(0, 1) for rows in rows_RTN],
        gamma=gamma,
        gae_lambda=gae_lambda,
        follows_TN=follows_RTN.flatten(0, 1),
    )
    return advantage_LN.view_as(value_RTN) + value_RTN
