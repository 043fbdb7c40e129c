"""PPO's policy on its own: from observations to the actions that it holds for best, as one module."""

from torch import Tensor, nn

from trainers.distributions import Distribution
from trainers.networks import ActorCritic

__all__ = ["GreedyPolicy"]


class GreedyPolicy(nn.Module):
    """The most probable action, as the environments take it; what evaluation acts by, and what is exported.

    Args:
        network: normaliser and actor are used.
        distribution: what its parameters mean.
    """

    def __init__(self, network: ActorCritic, distribution: Distribution) -> None:
        super().__init__()
        self._network, self._distribution = network, distribution

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, ...] -> actions [B] or [B, A]."""
        return self._distribution.to_env(self._distribution.mode(self._network.policy(obs)))
