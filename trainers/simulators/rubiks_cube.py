"""RubiksCube: 18 moves, each a permutation of 54 stickers.

Faces are 0 up, 1 front, 2 right, 3 back, 4 left, 5 down. An action is (face, depth 0, amount): amount 0 turns
clockwise, 1 back, 2 twice.
Shapes: B batch, C 54 stickers, P permutations.
Source: instadeepai/jumanji, logic/rubiks_cube/env.py and utils.py; sail-sg/envpool,
envpool/jumanji/rubiks_cube_env.h.
"""

from typing import Final

import torch
from torch import Tensor

from trainers.observations import ObsLayout
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome
from trainers.simulators.record import Record

__all__ = ["RubiksCube"]

NUM_FACES, SIDE = 6, 3
STICKERS_PER_FACE: Final = SIDE * SIDE
NUM_AMOUNTS: Final = 3
QUARTERS: Final = (1, 3, 2)
"""Clockwise quarter turns of each amount."""

RING: Final = {
    0: [(1, "top"), (4, "top"), (3, "top"), (2, "top")],
    1: [(0, "bottom"), (2, "left"), (5, "top back"), (4, "right back")],
    2: [(0, "right back"), (3, "left"), (5, "right back"), (1, "right back")],
    3: [(0, "top back"), (4, "left"), (5, "bottom"), (2, "right back")],
    4: [(0, "left"), (1, "left"), (5, "left"), (3, "right back")],
    5: [(1, "bottom"), (2, "bottom"), (3, "bottom"), (4, "bottom")],
}
"""Around each face, clockwise: the neighbouring faces, the edge that touches it, and whether it is read backwards."""
EDGES: Final = {"top": (0, 1, 2), "bottom": (6, 7, 8), "left": (0, 3, 6), "right": (2, 5, 8)}


class RubiksCube(ObservedModel):
    """Reward 1 when every face shows one colour; ends then, or at the time limit, which counts as an end in itself."""

    def __init__(self, layout: ObsLayout, device: torch.device, time_limit: int) -> None:
        self._record = Record(layout)
        self._time_limit = time_limit
        self._sources_PC = torch.tensor(_permutations(), device=device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Turn a face."""
        fields = self._record.split(state_BS)
        face_B, _, amount_B = action.unbind(-1)
        cube_BC = fields["cube"].gather(1, self._sources_PC[face_B * NUM_AMOUNTS + amount_B])
        faces_BFC = cube_BC.view(-1, NUM_FACES, STICKERS_PER_FACE)
        is_solved_B = (faces_BFC == faces_BFC[:, :, :1]).flatten(1).all(1)
        step_count_B = fields["step_count"].squeeze(1) + 1
        terminated_B = is_solved_B | (step_count_B >= self._time_limit)
        state_BS = self._record.join(fields | {"cube": cube_BC, "step_count": step_count_B})
        return Outcome(state_BS, is_solved_B.float(), terminated_B)


def _permutations() -> list[list[int]]:
    """For each face and amount: where each sticker comes from."""
    return [_turn(face, quarters) for face in range(NUM_FACES) for quarters in QUARTERS]


def _turn(face: int, quarters: int) -> list[int]:
    sources = list(range(NUM_FACES * STICKERS_PER_FACE))
    for _ in range(quarters):
        before = list(sources)
        for row in range(SIDE):
            for column in range(SIDE):
                sources[_sticker(face, row * SIDE + column)] = before[_sticker(face, (SIDE - 1 - column) * SIDE + row)]
        ring = [_sticker(neighbour, place) for neighbour, edge in RING[face] for place in _along(edge)]
        for position, sticker in enumerate(ring):
            sources[sticker] = before[ring[position - SIDE]]
    return sources


def _sticker(face: int, place: int) -> int:
    return face * STICKERS_PER_FACE + place


def _along(edge: str) -> tuple[int, ...]:
    name, *backwards = edge.split()
    return EDGES[name][::-1] if backwards else EDGES[name]
