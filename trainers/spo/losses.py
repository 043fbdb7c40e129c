"""What SPO's losses are made of, row by row: how probable the search's actions are, how far the policy has moved, and
how far the search was away from it.

    minimise over the networks     -mean_B sum_k w_k log pi(a_k) + sum_c sg(alpha_c) KL_c,     1/2 mean_B (V - y)^2
    minimise over each multiplier  its dual, of which the slope is the slack:  epsilon - KL

The temperature's KL is that of the search from its prior, each alpha's a KL from the target policy to the policy. They
are put together in `step`; every mean is over the rows of a minibatch that count.
Shapes: B minibatch, K atoms, M futures, P policy parameters, A action dimensions, C constraints of the policy, X
columns.
Source: Abdolmaleki et al. 2018, Maximum a Posteriori Policy Optimisation; Macfarlane et al. 2024, SPO, section 4.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from trainers.spo.policies import SearchPolicy

__all__ = ["EStep", "MStep", "discrete_m_step", "e_step", "gaussian_m_step", "mean"]

HALF_LOG_2_PI_E: Final = 0.5 * math.log(2 * math.pi * math.e)


class EStep(NamedTuple):
    """What the futures of a search come to at a temperature; [B] each, without gradient.

    Attributes:
        log_mean: log sum_m p_m exp(A_m / eta).
        kl: KL(u || p) of the futures, weighted by u = softmax(log p + A / eta), from their prior p.
    """

    log_mean: Tensor
    kl: Tensor


class MStep(NamedTuple):
    """What the policy learns from.

    Attributes:
        log_likelihood: of the search's weighted actions; [B].
        kl: from the target policy to this one, a column for each constraint; [B, C].
        entropy: of the policy, without gradient; [B].
    """

    log_likelihood: Tensor
    kl: Tensor
    entropy: Tensor


def mean(x_BX: Tensor, valid_B: Tensor) -> Tensor:
    """Mean of each column over the rows that count; the others must be finite."""
    # no matrix product: on a GPU that would be rounded as those of networks are
    return (x_BX * (valid_B / valid_B.sum().clamp(min=1.0)).unsqueeze(-1)).sum(0)


@torch.no_grad()
def e_step(advantage_BM: Tensor, log_prior_BM: Tensor, temperature: Tensor) -> EStep:
    """What the temperature's dual and its slope are made of.

        L  = eta (epsilon + mean_B log sum_m p_m exp(A_m / eta))         p_m = 1 / M where futures were drawn
        KL = mean_B sum_m u_m log(u_m / p_m),   u = softmax(log p + A / eta)

    dL / d eta = epsilon - KL, so that it stands still where KL = epsilon.
    """
    score_BM = log_prior_BM + advantage_BM / temperature
    log_u_BM = score_BM.log_softmax(-1)
    log_mean_B = score_BM.amax(-1) - log_u_BM.amax(-1)
    # nothing, not -inf less -inf, for what is impossible
    gained_BM = (log_u_BM - log_prior_BM).nan_to_num(0.0)
    return EStep(log_mean_B, (log_u_BM.exp() * gained_BM).sum(-1))


def discrete_m_step(
    policy: SearchPolicy, params_BP: Tensor, target_params_BP: Tensor, action_BK: Tensor, weight_BK: Tensor
) -> MStep:
    """A choice, under one constraint: KL = sum_a pi_target (log pi_target - log pi)."""
    log_likelihood_B = (weight_BK * policy.log_prob(params_BP, action_BK)).sum(-1)
    kl_B1 = (target_params_BP.exp() * (target_params_BP - params_BP)).sum(-1, keepdim=True)
    with torch.no_grad():
        entropy_B = -(params_BP.exp() * params_BP).sum(-1)
    return MStep(log_likelihood_B, kl_B1, entropy_B)


def gaussian_m_step(
    policy: SearchPolicy,
    params_BP: Tensor,
    target_params_BP: Tensor,
    action_BKA: Tensor,
    weight_BK: Tensor,
    *,
    is_per_dimension: bool,
) -> MStep:
    """Means and deviations, each with the other held at the target's: neither can hide behind the other.

        log p(a_k; mu, std_target)       KL_mu = (mu_target - mu)^2 / (2 std_target^2)
        log p(a_k; mu_target, std)       KL_sd = log(std / std_target) + std_target^2 / (2 std^2) - 1/2

    Constraints: all means, then all deviations, each dimension for itself or their sums. The entropy is that of the
    variables before they are squashed.
    """
    mean_BA, std_BA = params_BP.chunk(2, -1)
    target_mean_BA, target_std_BA = target_params_BP.chunk(2, -1)
    log_prob_BK = policy.log_prob(torch.cat([mean_BA, target_std_BA], -1), action_BKA)
    log_prob_BK = log_prob_BK + policy.log_prob(torch.cat([target_mean_BA, std_BA], -1), action_BKA)
    kl_mean_BA = ((target_mean_BA - mean_BA) / target_std_BA).square() / 2
    ratio_BA = target_std_BA / std_BA
    kls = (kl_mean_BA, (ratio_BA.square() - 1) / 2 - ratio_BA.log())
    kl_BC = torch.cat(kls if is_per_dimension else [kl_BA.sum(-1, keepdim=True) for kl_BA in kls], -1)
    with torch.no_grad():
        entropy_B = (std_BA.log() + HALF_LOG_2_PI_E).sum(-1)
    return MStep((weight_BK * log_prob_BK).sum(-1), kl_BC, entropy_B)
