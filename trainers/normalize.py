"""Running statistics that bring observations and rewards to a scale of one.

Only valid rows may enter: whoever calls leaves dummies out, by index or by mask. Everything stays on the device, and
nothing waits for it.
Shapes: V valid rows, F columns, T horizon, N envs.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from trainers.returns import discounted_sum

__all__ = ["ObsNormalizer", "RewardNormalizer", "RunningMoments", "share_moments"]

OBS_CLIP: Final = 10.0
"""Standard deviations from which an observation is cut."""
EPS: Final = 1e-8


class RunningMoments(nn.Module):
    """Mean and variance of all rows so far, in float64.

    Two sets of rows merge exactly (Chan, Golub and LeVeque 1979):

        d    = mean_b - mean_a
        mean = mean_a + d n_b / n
        M2   = M2_a + M2_b + d^2 n_a n_b / n        with n = n_a + n_b, variance M2 / n

    Args:
        shape: of one row.

    Attributes:
        sum_over_ranks: adds a tensor up over the processes that train together; None in a process alone.
    """

    count: Tensor
    mean: Tensor
    sum_of_squares: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.sum_over_ranks: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("sum_of_squares", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def observe(self, rows: Tensor, counts: Tensor | None = None) -> None:
        """Take in rows.

        Args:
            rows: [V, ...], at least one.
            counts: bool [V], false where a row, which must be finite all the same, does not count; None counts all.
        """
        rows = rows.double()
        weight = rows.new_ones(len(rows)) if counts is None else counts.double()
        add_up = self.sum_over_ranks or _as_it_is
        num_rows = add_up(weight.sum())
        mean = add_up(torch.tensordot(weight, rows, 1)) / num_rows
        delta = mean - self.mean
        total = self.count + num_rows
        self.sum_of_squares += add_up(torch.tensordot(weight, (rows - mean).square(), 1))
        self.sum_of_squares += delta.square() * (self.count * num_rows / total)
        self.mean += delta * (num_rows / total)
        self.count += num_rows

    @property
    def variance(self) -> Tensor:
        """Population variance; 0 before the first row."""
        return self.sum_of_squares / self.count.clamp(min=1.0)


def share_moments(module: nn.Module, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
    """Let the statistics inside a module count the rows of every process: they stay equal in all of them."""
    for part in module.modules():
        if isinstance(part, RunningMoments):
            part.sum_over_ranks = sum_over_ranks


class ObsNormalizer(nn.Module):
    """(x - mean) / std, cut at +-10; the identity until the first rows have been observed.

    Using it changes nothing: training calls `observe`, evaluation does not.

    Args:
        num_columns: F.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.moments = RunningMoments((num_columns,))
        self.register_buffer("shift", torch.zeros(num_columns))
        self.register_buffer("scale", torch.ones(num_columns))

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] -> [..., F]."""
        return torch.addcmul(self.shift, x, self.scale).clamp(-OBS_CLIP, OBS_CLIP)

    @torch.no_grad()
    def observe(self, rows_VF: Tensor) -> None:
        """Take in rows; the next call of the module uses them."""
        self.moments.observe(rows_VF)
        scale_F = (self.moments.variance + EPS).rsqrt()
        self.scale.copy_(scale_F)
        self.shift.copy_(-self.moments.mean * scale_F)


class RewardNormalizer(nn.Module):
    """Divide rewards by the standard deviation of the discounted return so far; they are not shifted.

        G_t = r_t + gamma * G_{t-1}, from 0 in every episode;   r'_t = r_t / std(G)

    Args:
        num_envs: N.
        gamma: discount factor.

    Source:
        Engstrom et al. 2020, Implementation Matters in Deep Policy Gradients, section 3.
    """

    discounted_return: Tensor

    def __init__(self, num_envs: int, gamma: float) -> None:
        super().__init__()
        self._gamma = gamma
        self.moments = RunningMoments()
        self.register_buffer("discounted_return", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, reward_TN: Tensor, done_TN: Tensor, valid_TN: Tensor, is_new_N: Tensor) -> Tensor:
        """Take in a rollout and return its rewards at the new scale; dummies count for nothing and get 0.

        Args:
            reward_TN: float.
            done_TN: the episode ended, either way; bool.
            valid_TN: false on dummies; bool.
            is_new_N: an episode begins with the first row, whatever came before: the environments may be new; bool.
        """
        reward_TN = reward_TN.masked_fill(~valid_TN, 0.0)
        goes_on_TN = valid_TN & ~done_TN
        # G_t needs what came before, discounted_sum what comes after: run time backwards
        carry_TN = torch.cat([~is_new_N.unsqueeze(0), goes_on_TN[:-1]]).double() * self._gamma
        first_N = reward_TN[:1].double() + carry_TN[:1] * self.discounted_return
        delta_TN = torch.cat([first_N, reward_TN[1:].double()])
        return_TN = discounted_sum(delta_TN.flip(0), carry_TN.flip(0)).flip(0)
        self.discounted_return.copy_(return_TN[-1] * goes_on_TN[-1])
        self.moments.observe(return_TN.flatten(), valid_TN.flatten())
        return (reward_TN / (self.moments.variance + EPS).sqrt()).to(reward_TN.dtype)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
