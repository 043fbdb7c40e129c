"""One step of many imagined futures: play it, judge where it leads, and measure the advantage.

Shapes: R rows, one for each future.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainers.simulators import Simulator, State

__all__ = ["Futures", "Network", "Step", "advance"]


class Network(Protocol):
    """Actor and critic."""

    def policy(self, obs: Tensor) -> Tensor:
        """The policy's raw outputs, one row each."""

    def value(self, obs: Tensor) -> Tensor:
        """State values, one each."""


class Futures(NamedTuple):
    """Where each future has come to.

    Attributes:
        state: the situation; where the future has ended, the last one.
        value: [R], what the next advantage is measured from.
        is_alive: bool [R], false once the episode has ended.
    """

    state: State
    value: Tensor
    is_alive: Tensor

    def select(self, row_M: Tensor) -> "Futures":
        """These rows."""
        return Futures(
            self.state.select(row_M), self.value.index_select(0, row_M), self.is_alive.index_select(0, row_M)
        )

    def repeat(self, count: int) -> "Futures":
        """Each future `count` times, in a row."""
        return Futures(
            self.state.repeat(count),
            self.value.repeat_interleave(count),
            self.is_alive.repeat_interleave(count),
        )


class Step(NamedTuple):
    """What a step has led to.

    Attributes:
        futures: where they are now.
        obs: [R, O], how it looks there.
        delta: [R], advantages; 0 after the end.
        terminated: bool [R], where it ended in the task's own terms; says nothing after the end.
    """

    futures: Futures
    obs: Tensor
    delta: Tensor
    terminated: Tensor


def advance(
    network: Network,
    simulator: Simulator,
    futures: Futures,
    action: Tensor,
    noise_RZ: Tensor,
    gamma: float,
    *,
    discounts_baseline: bool = False,
) -> Step:
    """Take one step in every future.

        delta = r + gamma (1 - terminated) V(s') - V(s)     where it is alive, else 0

    Whatever the model or the critic says of a future that has ended, NaN included, reaches nothing. A truncated one
    is bootstrapped from where it was cut.

    Args:
        network: the critic is asked.
        simulator: the model is played.
        futures: where they are.
        action: [R] or [R, A].
        noise_RZ: the model's chance.
        gamma: the search's discount.
        discounts_baseline: measure the next step from gamma V(s'), as the reference implementation does.
    """
    transition = simulator.step(futures.state, action, noise_RZ)
    state = transition.state.where(futures.is_alive, futures.state)
    obs_RO = simulator.observe(state)
    value_R = network.value(obs_RO).float()
    bootstrap_R = gamma * value_R.masked_fill(transition.terminated, 0.0)
    delta_R = (transition.reward + bootstrap_R - futures.value).masked_fill(~futures.is_alive, 0.0)
    is_alive_R = futures.is_alive & ~(transition.terminated | transition.truncated)
    baseline_R = torch.where(is_alive_R, bootstrap_R if discounts_baseline else value_R, futures.value)
    return Step(Futures(state, baseline_R, is_alive_R), obs_RO, delta_R, transition.terminated)
