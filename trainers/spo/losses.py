"""What SPO minimises: the temperature's dual (E-step), the policy under its trust region (M-step), and the critic.

Every mean is over the valid rows of a minibatch: `valid_B` is 1 for them and 0 for dummies.
Shapes: B minibatch, K atoms, M futures, P policy parameters, A action dimensions or 1.
Source: Abdolmaleki et al. 2018, Maximum a Posteriori Policy Optimisation; Macfarlane et al. 2024, SPO, section 4.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from trainers.spo.policies import SearchPolicy

__all__ = [
    "MStep",
    "Temperature",
    "critic_loss",
    "discrete_m_step",
    "entropy_of_choices",
    "entropy_of_gaussian",
    "gaussian_m_step",
    "mean",
    "temperature_loss",
]

HALF_LOG_2_PI_E: Final = 0.5 * math.log(2 * math.pi * math.e)


class Temperature(NamedTuple):
    """The temperature's loss, and how far the search moved away from the policy; 0-d each."""

    loss: Tensor
    kl: Tensor


class MStep(NamedTuple):
    """The policy's losses; 0-d each.

    Attributes:
        policy: weighted maximum likelihood of the search's actions.
        trust: the KL from the target policy, times its multiplier; only the policy learns from it.
        alpha: the same for the multipliers; only they learn from it.
        kl: KL(target || online).
    """

    policy: Tensor
    trust: Tensor
    alpha: Tensor
    kl: Tensor


def mean(x_B: Tensor, valid_B: Tensor) -> Tensor:
    """Mean over valid rows, along the first dimension; what dummies hold, NaN included, does not matter."""
    weight_B = valid_B.view(-1, *[1] * (x_B.ndim - 1))
    return torch.where(weight_B > 0, x_B, 0.0).sum(0) / valid_B.sum().clamp(min=1.0)


def temperature_loss(
    advantage_BM: Tensor, log_prior_BM: Tensor, temperature: Tensor, epsilon: float, valid_B: Tensor
) -> Temperature:
    """Find the temperature at which the search is `epsilon` away from the policy.

        L  = eta (epsilon + mean_B log sum_m p_m exp(A_m / eta))         p_m = 1 / M where futures were drawn
        KL = mean_B sum_m u_m log(u_m / p_m),   u = softmax(log p + A / eta)

    dL / d eta = epsilon - KL, so that it stands still where KL = epsilon.
    """
    score_BM = log_prior_BM + advantage_BM / temperature
    loss = temperature * (epsilon + mean(torch.logsumexp(score_BM, -1), valid_B))
    with torch.no_grad():
        log_u_BM = score_BM.log_softmax(-1)
        u_BM = log_u_BM.exp()
        kl_B = torch.where(u_BM > 0, u_BM * (log_u_BM - log_prior_BM), 0.0).sum(-1)
        kl = mean(kl_B, valid_B)
    return Temperature(loss, kl)


def discrete_m_step(
    policy: SearchPolicy,
    params_BP: Tensor,
    target_params_BP: Tensor,
    action_BK: Tensor,
    weight_BK: Tensor,
    alpha: Tensor,
    epsilon: float,
    valid_B: Tensor,
) -> MStep:
    """Learn a choice.

    L_pi = -mean_B sum_k w_k log pi(a_k)        KL = mean_B sum_a pi_target (log pi_target - log pi)
    L_KL = sg(alpha) KL                         L_alpha = alpha (epsilon - sg(KL))
    """
    log_prob_BK = policy.log_prob(params_BP, action_BK)
    policy_loss = -mean((weight_BK * log_prob_BK).sum(-1), valid_B)
    kl = mean((target_params_BP.exp() * (target_params_BP - params_BP)).sum(-1), valid_B)
    return MStep(policy_loss, alpha.detach() * kl, alpha * (epsilon - kl.detach()), kl.detach())


def gaussian_m_step(
    policy: SearchPolicy,
    params_BP: Tensor,
    target_params_BP: Tensor,
    action_BKA: Tensor,
    weight_BK: Tensor,
    alpha_mean_A: Tensor,
    alpha_std_A: Tensor,
    epsilon_mean: float,
    epsilon_std: float,
    valid_B: Tensor,
) -> MStep:
    """Learn means and deviations, each with the other held at the target's: neither can hide behind the other.

        L_mu = -mean_B sum_k w_k log p(a_k; mu, std_target)     KL_mu  = (mu_target - mu)^2 / (2 std_target^2)
        L_sd = -mean_B sum_k w_k log p(a_k; mu_target, std)     KL_sd  = log(std / std_target)
                                                                         + std_target^2 / (2 std^2) - 1/2

    The KLs are means over the rows; each dimension has its own multipliers, or one serves their sum.
    """
    mean_BA, std_BA = params_BP.chunk(2, -1)
    target_mean_BA, target_std_BA = target_params_BP.chunk(2, -1)
    log_prob_BK = policy.log_prob(torch.cat([mean_BA, target_std_BA], -1), action_BKA)
    log_prob_BK = log_prob_BK + policy.log_prob(torch.cat([target_mean_BA, std_BA], -1), action_BKA)
    policy_loss = -mean((weight_BK * log_prob_BK).sum(-1), valid_B)

    kl_mean_A = mean(((target_mean_BA - mean_BA) / target_std_BA).square() / 2, valid_B)
    ratio_BA = target_std_BA / std_BA
    kl_std_A = mean((ratio_BA.square() - 1) / 2 - ratio_BA.log(), valid_B)
    trust, alpha = torch.zeros_like(policy_loss), torch.zeros_like(policy_loss)
    for kl_A, alpha_A, epsilon in ((kl_mean_A, alpha_mean_A, epsilon_mean), (kl_std_A, alpha_std_A, epsilon_std)):
        constrained_A = kl_A if alpha_A.numel() > 1 else kl_A.sum(0, keepdim=True)
        trust = trust + (alpha_A.detach() * constrained_A).sum()
        alpha = alpha + (alpha_A * (epsilon - constrained_A.detach())).sum()
    return MStep(policy_loss, trust, alpha, (kl_mean_A + kl_std_A).sum().detach())


def critic_loss(value_B: Tensor, target_B: Tensor, valid_B: Tensor) -> Tensor:
    """Half the mean squared error."""
    return 0.5 * mean((value_B - target_B).square(), valid_B)


def entropy_of_choices(params_BP: Tensor) -> Tensor:
    """-sum p log p; [B]."""
    return -(params_BP.exp() * params_BP).sum(-1)


def entropy_of_gaussian(params_BP: Tensor) -> Tensor:
    """Of the variables before they are squashed: sum of log(std sqrt(2 pi e)); [B]."""
    std_BA = params_BP.chunk(2, -1)[1]
    return (std_BA.log() + HALF_LOG_2_PI_E).sum(-1)
