"""Optimiser, learning-rate schedule, gradient clipping.

Shapes: P parameters, all in one row, G groups of them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

import torch
from torch import Tensor, nn

__all__ = ["FlatAdam", "clip_grad_norm_", "linear_anneal", "minimize"]

BETA_1: Final = 0.9
BETA_2: Final = 0.999


class FlatAdam:
    """Adam over parameters that lie side by side in one tensor, their gradients in another.

    Clearing, clipping and stepping are then a handful of operations however many layers there are. torch's fused kernel
    runs once per group, called as `torch.optim.Adam` calls it but without what that does around it, which for small
    networks takes several times as long. The parameters given become views: move them to their device first, and
    replace neither their data nor their gradients afterwards (loading a state dict copies in place, which is fine).

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + eps)

    Learning rates and the count n of steps are tensors on the device: a captured or compiled step reads them there.

    Args:
        groups: parameters that share a learning rate, one sequence each; all float32 on one device.
        learning_rates: one for each group.
        eps: Adam's epsilon.
        max_grad_norm: longer gradients, over all groups together, are scaled to this norm.
        mean_over_ranks: averages a tensor over the processes that train together; None for a process alone.

    Attributes:
        parameters: all of them, in their order.
        gradient_P: what a backward pass adds their gradients to.

    Source:
        Kingma and Ba 2015, Adam: A Method for Stochastic Optimization, algorithm 1.
    """

    def __init__(
        self,
        groups: Sequence[Iterable[nn.Parameter]],
        learning_rates: Sequence[float],
        *,
        eps: float = 1e-5,
        max_grad_norm: float = 0.5,
        mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        members = [list(group) for group in groups]
        self._eps, self._max_grad_norm, self._mean_over_ranks = eps, max_grad_norm, mean_over_ranks
        self.parameters = [parameter for group in members for parameter in group]
        with torch.no_grad():
            self._flat_P = torch.cat([parameter.reshape(-1) for parameter in self.parameters])
        self.gradient_P, self._m_P, self._v_P = (torch.zeros_like(self._flat_P) for _ in range(3))
        sizes = [sum(parameter.numel() for parameter in group) for group in members]
        self._slices = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        self._num_steps_G = torch.zeros(len(members), device=self._flat_P.device)
        self._rate_P = torch.zeros_like(self._flat_P)
        # as torch.optim has it: on a GPU a tensor, which a captured step reads anew
        self._rates: list[Tensor | float] = [
            self._rate_P.new_tensor(rate) if self._rate_P.is_cuda else rate for rate in learning_rates
        ]
        self.set_learning_rates(learning_rates)
        self._alias()

    def minimize(self, loss: Tensor) -> Tensor:
        """Take one step down the loss; no host sync. If the loss or its gradient is not finite, nothing is changed.

        Returns:
            The norm of the gradient before clipping, 0-d; not finite if the gradient is not.
        """
        return minimize([self], [loss])[0]

    def views(self) -> list[Tensor]:
        """The parameters as plain tensors: what a functional call differentiates by."""
        return [self._flat_P[place].view_as(parameter) for place, parameter in self._placed()]

    @torch.no_grad()
    def step_(self, gradient_P: Tensor, loss: Tensor) -> Tensor:
        """Clip a flat gradient in place and take a step with it, unless it or the loss is not finite.

        Returns:
            The norm of the gradient before clipping, 0-d.
        """
        if self._mean_over_ranks is not None:
            # the loss, too: all must come to the same verdict on it
            shared = self._mean_over_ranks(torch.cat([gradient_P, loss.reshape(1)]))
            gradient_P.copy_(shared[:-1])
            loss = shared[-1]
        norm = clip_grad_norm_(gradient_P, self._max_grad_norm)
        is_finite = torch.isfinite(norm + loss)
        if torch.compiler.is_compiling():
            self._step_written_out(gradient_P, is_finite)
            return norm
        self._step_fused(gradient_P, is_finite)
        return norm

    def set_learning_rates(self, rates: Sequence[float]) -> None:
        """Give every group its rate, in their order."""
        for group, (place, rate) in enumerate(zip(self._slices, rates, strict=True)):
            self._rate_P[place].fill_(rate)
            held = self._rates[group]
            if isinstance(held, Tensor):
                held.fill_(rate)
            else:
                self._rates[group] = rate

    def state_dict(self) -> dict[str, Any]:
        """Moments and counts of steps; the parameters themselves belong to the network's."""
        return {"m": self._m_P, "v": self._v_P, "num_steps": self._num_steps_G}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of an optimiser with the same groups."""
        self._m_P.copy_(state["m"])
        self._v_P.copy_(state["v"])
        self._num_steps_G.copy_(state["num_steps"])

    def _step_written_out(self, gradient_P: Tensor, is_finite: Tensor) -> None:
        """For a compiler, which makes one loop of it."""
        num_steps = self._num_steps_G[0] + 1.0
        m_P = torch.lerp(self._m_P, gradient_P, 1.0 - BETA_1)
        v_P = (BETA_2 * self._v_P).addcmul(gradient_P, gradient_P, value=1.0 - BETA_2)
        first, second = 1.0 - BETA_1**num_steps, (1.0 - BETA_2**num_steps).sqrt()
        moved_P = self._flat_P - self._rate_P / first * m_P / (v_P.sqrt() / second + self._eps)
        for old, new in ((self._flat_P, moved_P), (self._m_P, m_P), (self._v_P, v_P)):
            old.copy_(torch.where(is_finite, new, old))
        self._num_steps_G.add_(is_finite)

    def _step_fused(self, gradient_P: Tensor, is_finite: Tensor) -> None:
        """By torch's kernel, which reads on the device, as for a gradient scaler, that it shall take no step."""
        found_inf = (~is_finite).float()
        self._num_steps_G.add_(is_finite)
        for place, num_steps, rate in zip(self._slices, self._num_steps_G.unbind(), self._rates, strict=True):
            torch._fused_adam_(
                [self._flat_P[place]],
                [gradient_P[place]],
                [self._m_P[place]],
                [self._v_P[place]],
                [],
                [num_steps],
                lr=rate,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=0.0,
                eps=self._eps,
                amsgrad=False,
                maximize=False,
                grad_scale=None,
                found_inf=found_inf,
            )

    def _placed(self) -> list[tuple[slice, nn.Parameter]]:
        ends = accumulate(parameter.numel() for parameter in self.parameters)
        return [
            (slice(end - parameter.numel(), end), parameter)
            for end, parameter in zip(ends, self.parameters, strict=True)
        ]

    def _alias(self) -> None:
        for place, parameter in self._placed():
            parameter.data = self._flat_P[place].view_as(parameter)
            parameter.grad = self.gradient_P[place].view_as(parameter)


def minimize(optimizers: Sequence[FlatAdam], losses: Sequence[Tensor]) -> list[Tensor]:
    """Take a step down each loss by its own optimiser, in one backward pass; no parameter has a part in two losses.

    Returns:
        Of each: the norm of the gradient before clipping, 0-d. Where it or the loss is not finite, nothing is changed.
    """
    pairs = list(zip(optimizers, losses, strict=True))
    for optimizer, _ in pairs:
        optimizer.gradient_P.zero_()
    torch.autograd.backward(list(losses))
    return [optimizer.step_(optimizer.gradient_P, loss.detach()) for optimizer, loss in pairs]


def clip_grad_norm_(gradient: Tensor, max_norm: float) -> Tensor:
    """Scale a flat gradient in place to a norm of at most `max_norm`; returns the norm before, 0-d."""
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm


def linear_anneal(initial: float, progress: float) -> float:
    """Fall linearly to 0: initial * (1 - progress), with progress held within [0, 1]."""
    return initial * (1.0 - min(max(progress, 0.0), 1.0))
