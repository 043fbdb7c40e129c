"""Knapsack: pack items of the greatest value into a limited weight.

Shapes: B batch, I 50 items.
Source: instadeepai/jumanji, packing/knapsack/env.py; sail-sg/envpool, envpool/jumanji/knapsack_env.h.
"""

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import at, put
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Knapsack"]


class Knapsack:
    """Reward: the item's value; ends when nothing more fits, or with an item that does not.

    What is left of the budget is not shown: it is part of the state, summed up from what is packed.
    """

    num_noise = 0
    is_on_host = False

    def __init__(self, layout: ObsLayout, total_budget: float) -> None:
        self._obs = Record(layout)
        self._record = Record(layout, budget=1)
        self._total_budget = total_budget

    def restore(self, obs_BO: Tensor) -> Tensor:
        """Add what is left of the budget."""
        fields = self._obs.split(obs_BO)
        used_B1 = (fields["weights"] * fields["packed_items"]).sum(1, keepdim=True)
        return torch.cat([obs_BO, self._total_budget - used_B1], 1)

    def observe(self, state_BS: Tensor) -> Tensor:
        """Leave the budget out."""
        return state_BS[:, :-1]

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Pack an item."""
        fields = self._record.split(state_BS)
        fits_B = at(fields["action_mask"], action) > 0
        packed_BI = torch.where(
            fits_B.unsqueeze(1), put(fields["packed_items"], action, torch.ones_like(action)), fields["packed_items"]
        )
        budget_B = fields["budget"].squeeze(1) - at(fields["weights"], action) * fits_B
        mask_BI = (packed_BI == 0) & (fields["weights"] <= budget_B.unsqueeze(1))
        changed = {"packed_items": packed_BI, "action_mask": mask_BI, "budget": budget_B}
        reward_B = at(fields["values"], action) * fits_B
        return Outcome(self._record.join(fields | changed), reward_B, ~fits_B | ~mask_BI.any(1))
