"""Optimiser, learning-rate schedule, gradient clipping."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FlatAdam", "clip_grad_norm_", "linear_anneal"]


class FlatAdam:
    """Adam over parameters that lie side by side in one tensor, their gradients in another.

    Clearing, clipping and stepping are then a handful of operations however many layers there are, and the fused
    kernel runs once per group. The parameters given become views: move them to their device first, and replace
    neither their data nor their gradients afterwards (loading a state dict copies in place, which is fine).

    Args:
        groups: parameters that share a learning rate, one sequence each; all float32 on one device.
        learning_rates: one for each group.
        eps: Adam's epsilon.
        max_grad_norm: longer gradients, over all groups together, are scaled to this norm.
    """

    def __init__(
        self,
        groups: Sequence[Iterable[nn.Parameter]],
        learning_rates: Sequence[float],
        *,
        eps: float = 1e-5,
        max_grad_norm: float = 0.5,
    ) -> None:
        members = [list(group) for group in groups]
        self._max_grad_norm = max_grad_norm
        self._parameters = [parameter for group in members for parameter in group]
        with torch.no_grad():
            flat = torch.cat([parameter.reshape(-1) for parameter in self._parameters])
        self._grad = torch.zeros_like(flat)
        sizes = [sum(parameter.numel() for parameter in group) for group in members]
        slices = [nn.Parameter(part) for part in torch.split(flat, sizes)]
        for part, gradient in zip(slices, torch.split(self._grad, sizes), strict=True):
            part.grad = gradient
        self._alias(flat)
        self._adam = torch.optim.Adam(
            [{"params": [part], "lr": rate} for part, rate in zip(slices, learning_rates, strict=True)],
            eps=eps,
            fused=flat.device.type in {"cpu", "cuda"},
        )

    def minimize(self, loss: Tensor) -> Tensor:
        """Take one step down the loss; no host sync. If the loss or its gradient is not finite, nothing is changed.

        Returns:
            The norm of the gradient before clipping, 0-d; not finite if the gradient is not.
        """
        self._grad.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_grad_norm_(self._grad, self._max_grad_norm)
        # the fused kernel reads it on the device, as for a gradient scaler, and takes no step where it is 1
        self._adam.found_inf = (~torch.isfinite(norm + loss.detach())).float()  # type: ignore[attr-defined]
        self._adam.step()
        return norm

    def set_learning_rates(self, rates: Sequence[float]) -> None:
        """Give every group its rate, in their order."""
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts of the groups; the parameters themselves belong to the network's."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of an optimiser with the same groups."""
        self._adam.load_state_dict(state)

    def _alias(self, flat: Tensor) -> None:
        start = 0
        for parameter in self._parameters:
            place = slice(start, start + parameter.numel())
            parameter.data = flat[place].view_as(parameter)
            parameter.grad = self._grad[place].view_as(parameter)
            start = place.stop


def clip_grad_norm_(gradient: Tensor, max_norm: float) -> Tensor:
    """Scale a flat gradient in place to a norm of at most `max_norm`; returns the norm before, 0-d."""
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm


def linear_anneal(initial: float, progress: float) -> float:
    """Fall linearly to 0: initial * (1 - progress), with progress held within [0, 1]."""
    return initial * (1.0 - min(max(progress, 0.0), 1.0))
