"""How PPO's policy acts in a rollout: one step for a group of environments.

Shapes: N environments of the group, P distribution parameters, T horizon.
"""

import torch
from torch import Tensor

from trainers.compilation import PLAIN, Execution, GraphedCall, compiled
from trainers.distributions import Distribution
from trainers.networks import ActorCritic
from trainers.rollout import RolloutStorage

__all__ = ["Actor"]


class Actor:
    """Samples actions into a storage.

    Args:
        network: actor and critic; if they share their trunk, the value is kept, too, for one pass instead of two.
        distribution: of the actions.
        execution: of the step; on a CPU it is not compiled: the call alone would take longer than the step.
        device: of the network.
    """

    def __init__(
        self, network: ActorCritic, distribution: Distribution, execution: Execution, device: torch.device
    ) -> None:
        self._network, self._distribution = network, distribution
        self._uses_graphs = execution.uses_graphs
        self._sample = compiled(self._sample_plain, execution if device.type == "cuda" else PLAIN, device)
        self._graphs: dict[tuple[int, int], GraphedCall] = {}

    def extras(self) -> dict[str, tuple[int, ...]]:
        """What the storage must have room for: the behaviour policy's parameters, the noise, and perhaps values."""
        sizes = {
            "params": (self._distribution.num_outputs + self._distribution.num_free,),
            "noise": (self._distribution.num_noise,),
        }
        return sizes | ({"value": ()} if self._network.is_shared else {})

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Sample action t of these environments; returns what they execute. No host sync."""
        if self._uses_graphs:
            return self._act_graphed(storage, t, envs)
        extras = storage.extras
        params_NP, value_N, action, executed = self._sample(storage.obs[t, envs], extras["noise"][t, envs])
        extras["params"][t, envs] = params_NP
        storage.action[t, envs] = action
        if value_N is not None:
            extras["value"][t, envs] = value_N
        return executed

    def _sample_plain(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        if self._network.is_shared:
            params_NP, value_N = self._network(obs)
        else:
            params_NP, value_N = self._network.policy(obs), None
        action = self._distribution.sample(params_NP, noise)
        return params_NP, value_N, action, self._distribution.to_env(action)

    def _act_graphed(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """The same, with t as a number on the device: one graph serves every row."""
        key = (id(storage), envs.start or 0)
        if key not in self._graphs:
            self._graphs[key] = GraphedCall(lambda t_1: self._act_at(storage, t_1, envs))
        return self._graphs[key](storage.row_numbers[t : t + 1])

    def _act_at(self, storage: RolloutStorage, t_1: Tensor, envs: slice) -> Tensor:
        def row(rows: Tensor) -> Tensor:
            return rows[:, envs].index_select(0, t_1).squeeze(0)

        def put(rows: Tensor, value: Tensor) -> None:
            rows[:, envs].index_copy_(0, t_1, value.unsqueeze(0))

        params_NP, value_N, action, executed = self._sample(row(storage.obs), row(storage.extras["noise"]))
        put(storage.extras["params"], params_NP)
        put(storage.action, action)
        if value_N is not None:
            put(storage.extras["value"], value_N)
        return executed
