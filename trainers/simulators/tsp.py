"""TSP: visit 20 cities by the shortest round trip.

Shapes: B batch, C cities.
Source: instadeepai/jumanji, routing/tsp/env.py; sail-sg/envpool, envpool/jumanji/tsp_env.h.
"""

import math
from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import at, put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["Tsp"]

NUM_CITIES: Final = 20
REVISIT_COST: Final = NUM_CITIES * math.sqrt(2.0)


class Tsp(ObservedModel):
    """Reward: less the distance of each leg, the last with the way home; ends there, or with a city seen before."""

    def __init__(self, layout: ObsLayout) -> None:
        self._record = Record(layout)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Travel to a city."""
        fields = self._record.split(state_BS)
        coordinates_BC2 = fields["coordinates"].view(-1, NUM_CITIES, 2)
        trajectory_BC, mask_BC = fields["trajectory"], fields["action_mask"]
        position_B = fields["position"].squeeze(1).long()
        is_new_B = at(mask_BC, action) > 0
        num_visited_B = (trajectory_BC >= 0).sum(1)
        is_last_B = is_new_B & (num_visited_B == NUM_CITIES - 1)

        leg_B = _distance(coordinates_BC2, position_B.clamp(min=0), action) * (num_visited_B > 0)
        home_B = _distance(coordinates_BC2, action, trajectory_BC[:, 0].long().clamp(min=0)) * is_last_B
        reward_B = torch.where(is_new_B, -leg_B - home_B, -REVISIT_COST)

        travelled_BC = put(trajectory_BC, num_visited_B.clamp(max=NUM_CITIES - 1), action)
        changed = {
            "trajectory": torch.where(is_new_B.unsqueeze(1), travelled_BC, trajectory_BC),
            "action_mask": put(mask_BC, action, torch.zeros_like(action)),
            "position": torch.where(is_new_B, action, position_B),
        }
        return Outcome(self._record.join(fields | changed), reward_B, is_last_B | ~is_new_B)


def _distance(coordinates_BC2: Tensor, from_B: Tensor, to_B: Tensor) -> Tensor:
    start, end = (coordinates_BC2.gather(1, city.view(-1, 1, 1).expand(-1, 1, 2)) for city in (from_B, to_B))
    return (start - end).square().sum((1, 2)).sqrt()
