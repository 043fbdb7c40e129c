"""Actor and critic on one observation: distribution parameters and state values.

Shapes: B batch, ... one observation, P distribution parameters.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from trainers.distributions import mask_logits
from trainers.networks.encoder import ObsEncoder
from trainers.networks.trunks import Activation, NatureCnn, linear, mlp
from trainers.observations import ObsLayout

__all__ = ["ActorCritic"]

POLICY_GAIN: Final = 0.01
"""Nearly equal preferences at first, so that early exploration does not depend on the draw of the weights."""
VALUE_GAIN: Final = 1.0


class ActorCritic(nn.Module):
    """A policy head and a value head on two trunks, or on one that they share.

    A trunk is a stack of linear layers, behind Nature's convolutions if the observation is an image. Weights are
    orthogonal (gain sqrt 2 in the trunk, 0.01 before the policy, 1 before the value) and biases 0; see Huang et al.
    2022, The 37 Implementation Details of Proximal Policy Optimization. Illegal actions are ruled out here: whoever
    uses the parameters cannot choose one.

    Args:
        layout: what an observation is made of.
        num_outputs: parameters computed from the observation.
        num_free: parameters that do not depend on it, learnt and put behind the others.
        free_init: where these start.
        hidden_sizes: widths of the trunk's linear layers.
        activation: after every hidden layer.
        shared: one trunk for both heads.
        normalizes_obs: standardise numbers by running statistics.
        generator: CPU generator of the weights, so that a seed gives the same ones on every device.

    Attributes:
        encoder: what every observation passes first; holds the running statistics.
    """

    def __init__(
        self,
        layout: ObsLayout,
        num_outputs: int,
        *,
        num_free: int = 0,
        free_init: float = 0.0,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        shared: bool = False,
        normalizes_obs: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ObsEncoder(layout, normalizes=normalizes_obs)
        self.is_shared = shared
        self._mask = layout.mask

        def make_trunk() -> tuple[nn.Sequential, int]:
            convolutions = [NatureCnn(layout.shape, generator)] if layout.is_image else []
            width = convolutions[0].num_features if convolutions else self.encoder.num_outputs
            layers = mlp(width, hidden_sizes, activation, generator)
            return nn.Sequential(*convolutions, *layers), hidden_sizes[-1] if hidden_sizes else width

        self.actor_trunk, width = make_trunk()
        self.critic_trunk = self.actor_trunk if shared else make_trunk()[0]
        self.policy_head = linear(width, num_outputs, POLICY_GAIN, generator)
        self.value_head = linear(width, 1, VALUE_GAIN, generator)
        self.free = nn.Parameter(torch.full((num_free,), free_init)) if num_free else None

    def policy(self, obs: Tensor) -> Tensor:
        """Distribution parameters [B, P]."""
        return self._params(self.actor_trunk(self.encoder(obs)), obs)

    def value(self, obs: Tensor) -> Tensor:
        """State values [B]."""
        return self._value(self.critic_trunk(self.encoder(obs)))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters and state values; a shared trunk runs once."""
        encoded = self.encoder(obs)
        actor_features = self.actor_trunk(encoded)
        critic_features = actor_features if self.is_shared else self.critic_trunk(encoded)
        return self._params(actor_features, obs), self._value(critic_features)

    def actor_parameters(self) -> Iterator[nn.Parameter]:
        """What the actor's learning rate drives; a shared trunk is here."""
        yield from self.actor_trunk.parameters()
        yield from self.policy_head.parameters()
        if self.free is not None:
            yield self.free

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """What the critic's learning rate drives."""
        if not self.is_shared:
            yield from self.critic_trunk.parameters()
        yield from self.value_head.parameters()

    def _params(self, features: Tensor, obs: Tensor) -> Tensor:
        outputs: Tensor = self.policy_head(features)
        if self._mask is not None:
            return mask_logits(outputs, obs[..., self._mask])
        if self.free is not None:
            return torch.cat([outputs, self.free.expand_as(outputs)], -1)
        return outputs

    def _value(self, features: Tensor) -> Tensor:
        value_B1: Tensor = self.value_head(features)
        return value_B1.squeeze(-1)
