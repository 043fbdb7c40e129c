"""Actor and critic networks: from observations to distribution parameters and state values.

Shapes: B batch, O observation size, P distribution parameters.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Activation", "ActorCritic", "Tanh", "mlp"]

Activation = Literal["tanh", "relu", "elu", "gelu"]

_HIDDEN_GAIN = math.sqrt(2.0)
_POLICY_GAIN = 0.01
"""Nearly equal preferences at first, so that early exploration does not depend on the draw of the weights."""
_VALUE_GAIN = 1.0


_SMALLEST_FOR_SIGMOID = 2**14
"""Elements from which the dearer calls of the detour pay."""


class Tanh(nn.Module):
    """tanh(x), as 1 - 2 sigmoid(-2 x) where that is faster: within 2e-7 of it.

    torch's own takes 3 to 4 times as long on a CPU, and with it a quarter of a PPO update. Small tensors, where calls
    cost more than elements, and GPUs keep it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Squash every element."""
        if x.device.type != "cpu" or x.numel() < _SMALLEST_FOR_SIGMOID:
            return torch.tanh(x)
        return torch.rsub(torch.sigmoid(x * -2.0), 1.0, alpha=2.0)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}


class ActorCritic(nn.Module):
    """A policy head and a value head on two trunks, or on one that they share.

    Weights are orthogonal (gain sqrt 2 in the trunk, 0.01 before the policy, 1 before the value) and biases 0;
    see Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization. They are drawn on the CPU,
    so that a seed gives the same weights on every device.

    Args:
        num_inputs: O.
        num_outputs: parameters computed from the observation.
        num_free: parameters that do not depend on it, learnt from 0 on and put behind the others.
        hidden_sizes: widths of the trunk's layers.
        activation: after every hidden layer.
        shared: one trunk for both heads.
        generator: CPU generator of the weights.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        num_free: int = 0,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        shared: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = hidden_sizes[-1] if hidden_sizes else num_inputs
        self.actor_trunk = mlp(num_inputs, hidden_sizes, activation, generator)
        self.critic_trunk = self.actor_trunk if shared else mlp(num_inputs, hidden_sizes, activation, generator)
        self.policy_head = _linear(width, num_outputs, _POLICY_GAIN, generator)
        self.value_head = _linear(width, 1, _VALUE_GAIN, generator)
        self.free = nn.Parameter(torch.zeros(num_free)) if num_free else None

    def policy(self, obs_BO: Tensor) -> Tensor:
        """Distribution parameters [B, P]."""
        return self._params(self.actor_trunk(obs_BO))

    def value(self, obs_BO: Tensor) -> Tensor:
        """State values [B]."""
        value_B1: Tensor = self.value_head(self.critic_trunk(obs_BO))
        return value_B1.squeeze(-1)

    def forward(self, obs_BO: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters and state values; a shared trunk runs once."""
        actor_features = self.actor_trunk(obs_BO)
        shared = self.critic_trunk is self.actor_trunk
        critic_features = actor_features if shared else self.critic_trunk(obs_BO)
        return self._params(actor_features), self.value_head(critic_features).squeeze(-1)

    def actor_parameters(self) -> Iterator[nn.Parameter]:
        """What the actor's learning rate drives; a shared trunk is here."""
        yield from self.actor_trunk.parameters()
        yield from self.policy_head.parameters()
        if self.free is not None:
            yield self.free

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """What the critic's learning rate drives."""
        if self.critic_trunk is not self.actor_trunk:
            yield from self.critic_trunk.parameters()
        yield from self.value_head.parameters()

    def _params(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.policy_head(features)
        if self.free is None:
            return outputs
        return torch.cat([outputs, self.free.expand_as(outputs)], -1)


def mlp(
    num_inputs: int, hidden_sizes: Sequence[int], activation: Activation, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Stack linear layers, each followed by the activation; no layers give the identity."""
    widths = [num_inputs, *hidden_sizes]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [_linear(fan_in, fan_out, _HIDDEN_GAIN, generator), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def _linear(fan_in: int, fan_out: int, gain: float, generator: torch.Generator | None) -> nn.Linear:
    # skip_init: the default initialisation would draw from the global generator for nothing
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # type: ignore[no-untyped-call]
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
