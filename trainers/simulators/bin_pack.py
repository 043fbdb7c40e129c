"""BinPack: put boxes into a container, each into the corner of one of its empty spaces.

envpool replaces the space by the three that a saw would leave above, behind and beside the item, and leaves the
other spaces as they are; jumanji would cut those, too.
Shapes: B batch, E 40 spaces, I 20 items, D six bounds: x1, x2, y1, y2, z1, z2.
Source: instadeepai/jumanji, packing/bin_pack/env.py; sail-sg/envpool 1.2.5, envpool/jumanji/bin_pack_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.grid import at, put
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["BinPack"]

NUM_SPACES, NUM_ITEMS = 40, 20
NUM_CUTS: Final = 3
BOUNDS: Final = ("ems.x1", "ems.x2", "ems.y1", "ems.y2", "ems.z1", "ems.z2")
LENGTHS: Final = ("items.x_len", "items.y_len", "items.z_len")
TOLERANCE: Final = 1e-6
ILLEGAL_REWARD: Final = -1.0


class BinPack(ObservedModel):
    """Action: space * 20 + item. Reward: the item's volume; ends when nothing fits, or with what does not, at -1."""

    def __init__(self, layout: ObsLayout) -> None:
        self._record = Record(layout)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Place an item."""
        fields = self._record.split(state_BS)
        space_B, item_B = action // NUM_ITEMS, action % NUM_ITEMS
        is_legal_B = at(fields["action_mask"], action) > 0
        bounds_BDE = torch.stack([fields[name] for name in BOUNDS], 1)
        length_B3I = torch.stack([fields[name] for name in LENGTHS], 1)
        size_B3 = length_B3I.gather(2, item_B.view(-1, 1, 1).expand(-1, 3, 1)).squeeze(2)

        cut_BDE, cut_mask_BE = _cut(bounds_BDE, fields["ems_mask"] > 0, space_B, size_B3)
        bounds_BDE = torch.where(is_legal_B.view(-1, 1, 1), cut_BDE, bounds_BDE)
        ems_mask_BE = torch.where(is_legal_B.unsqueeze(1), cut_mask_BE, fields["ems_mask"] > 0)
        placed_BI = put(fields["items_placed"], item_B, (at(fields["items_placed"], item_B) > 0) | is_legal_B)
        items_mask_BI = put(fields["items_mask"], item_B, (at(fields["items_mask"], item_B) > 0) & ~is_legal_B)

        room_B3E = bounds_BDE[:, 1::2] - bounds_BDE[:, 0::2] + TOLERANCE
        fits_BEI = (length_B3I.unsqueeze(2) <= room_B3E.unsqueeze(3)).all(1)
        waits_BI = (items_mask_BI > 0) & (placed_BI == 0)
        mask_BEI = fits_BEI & ems_mask_BE.unsqueeze(2) & waits_BI.unsqueeze(1)
        changed = dict(zip(BOUNDS, bounds_BDE.unbind(1), strict=True)) | {
            "ems_mask": ems_mask_BE,
            "items_mask": items_mask_BI,
            "items_placed": placed_BI,
            "action_mask": mask_BEI.flatten(1),
        }
        reward_B = torch.where(is_legal_B, size_B3.prod(1), ILLEGAL_REWARD)
        return Outcome(self._record.join(fields | changed), reward_B, ~is_legal_B | ~mask_BEI.flatten(1).any(1))


def _cut(bounds_BDE: Tensor, mask_BE: Tensor, space_B: Tensor, size_B3: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a space by what an item in its corner leaves: three spaces in front, then the others in their order."""
    index_BD1 = space_B.view(-1, 1, 1).expand(-1, len(BOUNDS), 1)
    x1, x2, y1, y2, z1, z2 = bounds_BDE.gather(2, index_BD1).squeeze(2).unbind(1)
    end_x, end_y, end_z = x1 + size_B3[:, 0], y1 + size_B3[:, 1], z1 + size_B3[:, 2]
    cuts = [(x1, x2, y1, y2, end_z, z2), (x1, x2, end_y, y2, z1, z2), (end_x, x2, y1, y2, z1, z2)]
    cuts_BDN = torch.stack([torch.stack(cut, 1) for cut in cuts], 2)
    exists_BN = (cuts_BDN[:, 0::2] < cuts_BDN[:, 1::2]).all(1)

    stays_BE = mask_BE & (torch.arange(NUM_SPACES, device=space_B.device) != space_B.unsqueeze(1))
    # those that leave, or find no place any more, go to one place beyond the last
    place_BE = torch.where(stays_BE, stays_BE.cumsum(1) - 1 + NUM_CUTS, NUM_SPACES).clamp(max=NUM_SPACES)
    num_rest = NUM_SPACES + 1 - NUM_CUTS
    next_BDE = torch.nn.functional.pad(cuts_BDN * exists_BN.unsqueeze(1), (0, num_rest))
    next_BDE = next_BDE.scatter(2, place_BE.unsqueeze(1).expand_as(bounds_BDE), bounds_BDE)
    next_mask_BE = torch.nn.functional.pad(exists_BN, (0, num_rest)).scatter(1, place_BE, True)
    return next_BDE[:, :, :NUM_SPACES], next_mask_BE[:, :NUM_SPACES]
