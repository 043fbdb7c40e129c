"""Tasks with a handful of states: their rules as tables.

Shapes: B batch, S states, A actions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainers.simulators.chance import choose_number
from trainers.simulators.observed import ObservedModel
from trainers.simulators.protocol import Outcome

__all__ = ["Rule", "TabularModel"]

Rule = Callable[[int, int], tuple[int, float, bool]]
"""(state, action) -> (next state, reward, whether the episode ends)."""

NUM_SLIPS = 3


class TabularModel(ObservedModel):
    """A state is its number; what a rule says of it is looked up.

    Args:
        rule: asked once for every state and action.
        num_states: S.
        num_actions: A.
        is_slippery: with probability 1/3 each, the action before or after the chosen one is carried out instead.
        device: of the tensors that come in.
    """

    def __init__(
        self, rule: Rule, num_states: int, num_actions: int, device: torch.device, *, is_slippery: bool = False
    ) -> None:
        self.num_noise = int(is_slippery)
        self._num_actions = num_actions
        outcomes = [rule(state, action) for state in range(num_states) for action in range(num_actions)]
        following, reward, ends = zip(*outcomes, strict=True)
        self._following = torch.tensor(following, dtype=torch.float32, device=device)
        self._reward = torch.tensor(reward, dtype=torch.float32, device=device)
        self._ends = torch.tensor(ends, device=device)

    def step(self, state_BS: Tensor, action: Tensor, noise_BZ: Tensor) -> Outcome:
        """Look it up."""
        if self.num_noise:
            action = (action + choose_number(noise_BZ[:, 0], NUM_SLIPS) - 1).remainder(self._num_actions)
        entry_B = state_BS[:, 0].long() * self._num_actions + action
        return Outcome(self._following[entry_B].unsqueeze(1), self._reward[entry_B], self._ends[entry_B])
