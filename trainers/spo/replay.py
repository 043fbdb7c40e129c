"""The last rollouts, on the device: what was seen, what search made of it, and what came of it.

A slot holds one rollout with all T + 1 of its observations, so that what follows a step is known even where the
environments were started anew after it.
Shapes: R slots, F filled ones, T horizon, S = T + 1, N environments, B minibatch, K atoms, M futures, L steps of a
sequence.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Experience", "Replay", "Sequences"]


class Experience(NamedTuple):
    """What is kept of each step beside its observation; leading dimensions [T, N] in a rollout.

    Attributes:
        action: the atoms of the search's improved policy, [..., K] or [..., K, A].
        weight: their weights, [..., K].
        advantage: of the search's futures, [..., M].
        log_prior: the logarithms of their probabilities, [..., M].
        reward: what the environment paid, as the critic learns it.
        terminated, truncated, valid: as in a rollout.
    """

    action: Tensor
    weight: Tensor
    advantage: Tensor
    log_prior: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    def of_search(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the policy and the temperature learn from."""
        return self.action, self.weight, self.advantage, self.log_prior


class Sequences(NamedTuple):
    """Steps that follow one another, [L, B] each.

    Attributes:
        slot, t, env: where they are.
        goes_on: whether the next step of the sequence follows this one, as far as rollouts are concerned.
    """

    slot: Tensor
    t: Tensor
    env: Tensor
    goes_on: Tensor


class Replay:
    """A ring of rollouts, the oldest of which gives way.

    Args:
        obs_SN: a rollout's observations, for their shape.
        experience: likewise.
        num_slots: R.

    Attributes:
        obs: [R, S, N, ...].
        experience: [R, T, N, ...] each.
    """

    def __init__(self, obs_SN: Tensor, experience: Experience, num_slots: int) -> None:
        self.obs = obs_SN.new_zeros((num_slots, *obs_SN.shape))
        self.experience = Experience(*[part.new_zeros((num_slots, *part.shape)) for part in experience])
        self._num_added = 0

    @property
    def num_slots(self) -> int:
        """R."""
        return len(self.obs)

    @property
    def num_filled(self) -> int:
        """F: the first so many slots hold something."""
        return min(self._num_added, self.num_slots)

    @property
    def num_steps(self) -> int:
        """Steps that are kept, dummies counted."""
        return self.num_filled * self.experience.reward[0].numel()

    def add(self, obs_SN: Tensor, experience: Experience) -> None:
        """Keep a rollout."""
        slot = self._num_added % self.num_slots
        self.obs[slot].copy_(obs_SN)
        for kept, part in zip(self.experience, experience, strict=True):
            kept[slot].copy_(part)
        self._num_added += 1

    def take_back(self) -> None:
        """Forget the rollout that was added last; what it has displaced is lost, and the next one takes its place."""
        self._num_added -= 1
        slot = self._num_added % self.num_slots
        for kept in (self.obs, *self.experience):
            kept[slot].zero_()

    def order(self) -> Tensor:
        """The filled slots, the oldest first; int64 [F]."""
        oldest = self._num_added % self.num_slots if self.num_filled == self.num_slots else 0
        return (torch.arange(self.num_filled, device=self.obs.device) + oldest) % self.num_slots

    def goes_on(self) -> Tensor:
        """Whether the rollout after each, in order, begins with what this one ends with; bool [F, N]."""
        obs_FSN = self.obs[self.order()]
        same = (obs_FSN[:-1, -1] == obs_FSN[1:, 0]).flatten(2).all(-1)
        return torch.cat([same, same.new_zeros(1, same.shape[1])])

    def draw_steps(self, num_rows: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw valid steps, each as probable as any other; int64 [num_rows, B], of the flattened [F * T * N]."""
        count_X = self.experience.valid[: self.num_filled].flatten().cumsum(0)
        chance = torch.rand(num_rows, batch_size, generator=generator, device=count_X.device, dtype=torch.float64)
        return torch.searchsorted(count_X, (chance * count_X[-1]).long() + 1)

    def draw_sequences(
        self, num_rows: int, batch_size: int, length: int, generator: torch.Generator
    ) -> list[Sequences]:
        """Draw sequences of steps, each start as probable as any other; none reaches over the newest step."""
        horizon, num_envs = self.experience.reward.shape[1:]
        device, order_F, goes_on_FN = self.obs.device, self.order(), self.goes_on()
        num_starts = self.num_filled * horizon - length + 1
        shape = (num_rows, 1, batch_size)
        start = torch.randint(num_starts, shape, generator=generator, device=device)
        env = torch.randint(num_envs, shape, generator=generator, device=device).expand(-1, length, -1)
        at = start + torch.arange(length, device=device).view(1, -1, 1)
        rollout, t = at // horizon, at % horizon
        is_followed = (t < horizon - 1) | goes_on_FN[rollout, env]
        parts = (order_F[rollout], t, env, is_followed)
        return [Sequences(*[part[row] for part in parts]) for row in range(num_rows)]

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        filled = {name: part[: self.num_filled].clone() for name, part in self.experience._asdict().items()}
        return {"obs": self.obs[: self.num_filled].clone(), "experience": filled, "num_added": self._num_added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a replay with the same shapes."""
        self._num_added = state["num_added"]
        self.obs[: self.num_filled].copy_(state["obs"])
        for name, part in state["experience"].items():
            getattr(self.experience, name)[: self.num_filled].copy_(part)
