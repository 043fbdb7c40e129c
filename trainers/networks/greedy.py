"""A policy on its own: from observations to the actions that it holds for best, as one module."""

from collections.abc import Callable

from torch import Tensor, nn

from trainers.networks.actor_critic import ActorCritic

__all__ = ["GreedyPolicy"]


class GreedyPolicy(nn.Module):
    """The most probable action, as the environments take it, without search; what is exported.

    Args:
        network: normaliser and actor are used.
        choose: the actor's outputs [B, P] -> actions [B] or [B, A], in the environment's form.
    """

    def __init__(self, network: ActorCritic, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._network, self._choose = network, choose

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, ...] -> actions [B] or [B, A]."""
        return self._choose(self._network.policy(obs))
