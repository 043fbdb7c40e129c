"""One gradient step of PPO, in two forms that agree: by autograd on modules, and as a pure function.

The first is the fastest as plain calls. The second has fixed shapes and can be compiled or captured whole: gather,
forward, backward, clip and Adam become one.
Shapes: B minibatch, K metrics, P parameters.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from trainers.distributions import Distribution
from trainers.networks import ActorCritic
from trainers.optim import FlatAdam
from trainers.ppo.batch import Batch
from trainers.ppo.losses import METRICS, Objective

__all__ = ["STEP_METRICS", "GradientStep"]

STEP_METRICS: Final = (*METRICS, "global_grad_norm")
"""What a step reports, in order."""


class GradientStep:
    """Moves the parameters down the objective once per call; no host sync.

    Args:
        network: actor and critic.
        distribution: of the actions.
        objective: what to minimise.
        optimizer: holds the network's parameters.
    """

    def __init__(
        self, network: ActorCritic, distribution: Distribution, objective: Objective, optimizer: FlatAdam
    ) -> None:
        self._network, self._distribution = network, distribution
        self._objective, self._optimizer = objective, optimizer
        names = {parameter: name for name, parameter in network.named_parameters()}
        self._names = [names[parameter] for parameter in optimizer.parameters]

    def on_rows(self, rows: Batch) -> Tensor:
        """Learn from these rows; returns STEP_METRICS [K]."""
        loss, metrics = self._loss(self._network, rows, None)
        norm = self._optimizer.minimize(loss)
        return torch.cat([metrics, norm.unsqueeze(0)])

    def on_selection(self, batch: Batch, index_B: Tensor, weight_B: Tensor) -> Tensor:
        """Learn from these rows of a batch, those of weight 0 excepted; returns STEP_METRICS [K]."""
        rows = batch.select(index_B)

        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return self._loss(lambda obs: functional_call(self._network, parameters, (obs,)), rows, weight_B)

        parameters = dict(zip(self._names, self._optimizer.views(), strict=True))
        gradients, (value, metrics) = grad_and_value(loss, has_aux=True)(parameters)
        gradient_P = torch.cat([gradients[name].reshape(-1) for name in self._names])
        norm = self._optimizer.step_(gradient_P, value)
        return torch.cat([metrics, norm.unsqueeze(0)])

    def _loss(
        self, network: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Batch, weight_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        params, value_B = network(rows.obs)
        log_prob_B, entropy_B = self._distribution.log_prob_and_entropy(params, rows.action)
        return self._objective(log_prob_B, entropy_B, value_B, rows.log_prob, rows.value, rows.advantage, weight_B)
