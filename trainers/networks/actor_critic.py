"""Actor and critic on one observation: distribution parameters and state values.

Shapes: B batch, ... one observation, P distribution parameters.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.distributions import mask_logits
from trainers.networks.encoder import ObsEncoder
from trainers.networks.trunks import Activation, Mlp, NatureCnn, linear
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
        uses_bf16: run the trunks in bfloat16; the heads stay in float32, since values of 100 would be off by 0.4.
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
        uses_bf16: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ObsEncoder(layout, normalizes=normalizes_obs)
        self._uses_bf16 = uses_bf16
        self._mask = layout.mask

        def make_trunk() -> tuple[nn.Module, int]:
            if not layout.is_image:
                layers = Mlp(self.encoder.num_outputs, hidden_sizes, activation, generator)
                return layers, layers.num_outputs
            convolutions = NatureCnn(layout.shape, generator)
            layers = Mlp(convolutions.num_features, hidden_sizes, activation, generator)
            return nn.Sequential(convolutions, layers), layers.num_outputs

        self.actor_trunk, width = make_trunk()
        # not the actor's under a second name: torch cannot compile a function of parameters that go by two
        self.critic_trunk = None if shared else make_trunk()[0]
        self.policy_head = linear(width, num_outputs, POLICY_GAIN, generator)
        self.value_head = linear(width, 1, VALUE_GAIN, generator)
        self.free = nn.Parameter(torch.full((num_free,), free_init)) if num_free else None

    @property
    def is_shared(self) -> bool:
        """Whether both heads stand on one trunk."""
        return self.critic_trunk is None

    def policy(self, obs: Tensor) -> Tensor:
        """Distribution parameters [B, P]."""
        return self._params(self._features(self.actor_trunk, self.encoder(obs)), obs)

    def value(self, obs: Tensor) -> Tensor:
        """State values [B]."""
        trunk = self.actor_trunk if self.critic_trunk is None else self.critic_trunk
        return self._value(self._features(trunk, self.encoder(obs)))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters and state values; a shared trunk runs once."""
        encoded = self.encoder(obs)
        actor_features = self._features(self.actor_trunk, encoded)
        critic_features = actor_features if self.critic_trunk is None else self._features(self.critic_trunk, encoded)
        return self._params(actor_features, obs), self._value(critic_features)

    def actor_parameters(self) -> Iterator[nn.Parameter]:
        """What the actor's learning rate drives; a shared trunk is here."""
        yield from self.actor_trunk.parameters()
        yield from self.policy_head.parameters()
        if self.free is not None:
            yield self.free

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """What the critic's learning rate drives."""
        if self.critic_trunk is not None:
            yield from self.critic_trunk.parameters()
        yield from self.value_head.parameters()

    def _features(self, trunk: nn.Module, encoded: Tensor) -> Tensor:
        features: Tensor
        if not self._uses_bf16:
            features = trunk(encoded)
            return features
        with torch.autocast(encoded.device.type, torch.bfloat16):
            features = trunk(encoded)
        return features.float()

    def _params(self, features: Tensor, obs: Tensor) -> Tensor:
        outputs = functional.linear(features, self.policy_head.weight, self.policy_head.bias)
        if self._mask is not None:
            return mask_logits(outputs, obs[..., self._mask])
        if self.free is not None:
            return torch.cat([outputs, self.free.expand_as(outputs)], -1)
        return outputs

    def _value(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.value_head.weight, self.value_head.bias).squeeze(-1)
