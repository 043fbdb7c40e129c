"""The passes of an update over its batch: which rows make each gradient step, and how the step is executed.

Shapes: B rows of a minibatch, M minibatches of a pass, G gradient steps, K metrics.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainers.compilation import Execution, GraphedCall, compiled
from trainers.ppo.batch import Batch, Shuffle
from trainers.ppo.step import STEP_METRICS, GradientStep

__all__ = ["Passes"]

KL = STEP_METRICS.index("approx_kl")


class Passes:
    """Runs the epochs of an update.

    Plain steps take the rows that there are. Steps that are compiled or captured have a fixed shape, are given a
    selection of the batch, and gather it themselves.

    Args:
        step: the gradient step.
        num_epochs: passes over each batch.
        num_minibatches: M.
        batch_size: rows of a rollout, dummies included.
        target_kl: stop after a pass in which the policy has moved further; None never stops.
        execution: of the step.
        device: of the batch.
        mean_over_ranks: averages a tensor over the processes that train together.
    """

    def __init__(
        self,
        step: GradientStep,
        *,
        num_epochs: int,
        num_minibatches: int,
        batch_size: int,
        target_kl: float | None,
        execution: Execution,
        device: torch.device,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> None:
        self._mean_over_ranks = mean_over_ranks
        self._step, self._execution = step, execution
        self._num_epochs, self._num_minibatches, self._target_kl = num_epochs, num_minibatches, target_kl
        self._num_rows = batch_size // num_minibatches
        self._on_selection = compiled(step.on_selection, execution, device)
        self._static: Batch | None = None
        self._graphed: GraphedCall | None = None

    def run(self, batch: Batch, valid_index: Tensor, generator: torch.Generator) -> Tensor:
        """Take all gradient steps of an update; returns the STEP_METRICS of each, [G, K], on the device."""
        shuffle = Shuffle(valid_index, self._num_minibatches, generator)
        steps = self._plain_steps(batch, shuffle) if self._execution.is_plain else self._fixed_steps(batch, shuffle)
        rows: list[Tensor] = []
        for metrics_K in steps:
            rows.append(metrics_K)
            is_end_of_pass = len(rows) % shuffle.num_minibatches == 0
            if is_end_of_pass and self._has_moved_too_far(rows[-shuffle.num_minibatches :]):
                break
        return torch.stack(rows)

    def _plain_steps(self, batch: Batch, shuffle: Shuffle) -> Iterator[Tensor]:
        for _ in range(self._num_epochs):
            yield from map(self._step.on_rows, batch.select(shuffle.order()).split(shuffle.num_minibatches))

    def _fixed_steps(self, batch: Batch, shuffle: Shuffle) -> Iterator[Tensor]:
        place_MB, weight_MB = shuffle.fixed_size(self._num_rows)
        if self._execution.uses_graphs:
            batch = self._in_place(batch)
        for _ in range(self._num_epochs):
            index_MB = shuffle.order()[place_MB]
            for index_B, weight_B in zip(index_MB, weight_MB, strict=True):
                if self._graphed is not None:
                    yield self._graphed(index_B, weight_B).clone()
                else:
                    yield self._on_selection(batch, index_B, weight_B)

    def _in_place(self, batch: Batch) -> Batch:
        """The batch where the captured step reads it."""
        if self._static is None:
            static = Batch(*[rows.clone() for rows in batch])
            self._static = static
            self._graphed = GraphedCall(lambda index_B, weight_B: self._on_selection(static, index_B, weight_B))
        for place, rows in zip(self._static, batch, strict=True):
            place.copy_(rows)
        return self._static

    def _has_moved_too_far(self, rows: list[Tensor]) -> bool:
        """A host sync, and only paid where target_kl is set."""
        if self._target_kl is None:
            return False
        return float(self._mean_over_ranks(torch.stack(rows)[:, KL].mean())) > self._target_kl
