"""SPO's learner: searches during a rollout, then learns from the replay what searches have found.

Shapes: G gradient steps of an update.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainers.compilation import Execution, GraphedCall, compiled, resolve_execution
from trainers.config import SpoConfig
from trainers.divergence import check_finite
from trainers.envs import EnvSpec
from trainers.errors import DivergenceError
from trainers.networks import GreedyPolicy
from trainers.normalize import share_moments
from trainers.optim import linear_anneal
from trainers.rollout import RolloutStorage
from trainers.runtime import Runtime
from trainers.spo.acting import Actor, DeterministicPolicy, GreedySearch, name_statistics
from trainers.spo.batches import Batches
from trainers.spo.duals import temperature_of
from trainers.spo.learnt import make_duals, make_network, make_optimizers
from trainers.spo.replay import Replay
from trainers.spo.setup import check_epsilon, check_shares, plan_search
from trainers.spo.step import STEP_METRICS, Batch, GradientStep

__all__ = ["Spo", "UpdateMetrics"]


class UpdateMetrics:
    """One update in numbers; those of gradient steps are means over them.

    Args:
        values: by name.
    """

    def __init__(self, values: dict[str, float]) -> None:
        self._values = values

    def _asdict(self) -> dict[str, float]:
        return self._values


class Spo:
    """Sequential Monte Carlo Policy Optimisation.

    Args:
        spec: what the environments look like.
        config: the run's configuration.
        runtime: device and seeds.

    Attributes:
        network: the actor and the critic.
        num_updates: updates made so far; the version of the policy.
    """

    def __init__(self, spec: EnvSpec, config: SpoConfig, runtime: Runtime) -> None:
        self.num_updates = 0
        self._spec, self._config, self._device, self._ranks = spec, config, runtime.device, runtime.ranks
        check_shares(config, self._ranks.size)
        self._plan = plan_search(spec, config.environment, config.search, runtime.device)
        check_epsilon(config, self._plan)
        policy = self._plan.policy
        self.network = make_network(spec, policy, config, runtime)
        self._target = copy.deepcopy(self.network).requires_grad_(False)
        self._target.encoder = self.network.encoder
        self._duals = make_duals(config.spo, policy.action_shape).to(self._device)
        self._optimizers = make_optimizers(self.network, self._duals, config, self._ranks)
        self._step = GradientStep(self.network, self._duals, policy, self._optimizers, config.spo)
        self._noise_generator = torch.Generator(self._device).manual_seed(runtime.seeds.policy)
        self._minibatch_generator = torch.Generator(self._device).manual_seed(runtime.seeds.minibatch)
        self._batches = Batches(self._target, policy, config, self._minibatch_generator, self._ranks.size)
        execution = resolve_execution(
            config.hardware.compile,
            self._device,
            config.training_core.total_timesteps,
            is_image=False,
            wants_graphs=config.hardware.cuda_graphs,
            is_alone=self._ranks.size == 1,
        )
        if self._ranks.size > 1:
            share_moments(self.network, self._ranks.sum)
        self._actor = Actor(self.network, self._plan, self._noise_generator, execution)
        self._greedy_search = GreedySearch(self.network, self._plan, execution, self._device)
        self._take_step = _executed(self._step, execution, self._device)
        self._replay: Replay | None = None
        self._saved_replay: dict[str, Any] | None = None
        self._loaded_temperature: Tensor | None = None

    def make_storage(self, num_envs: int) -> RolloutStorage:
        """Allocate a rollout with room for what searches find."""
        horizon, extras = self._config.training_core.horizon, self._actor.extras(self._spec.action.shape)
        return RolloutStorage(self._spec, horizon, num_envs, self._device, extras)

    def begin_rollout(self, storage: RolloutStorage) -> None:
        """Draw the noise of every search of the rollout."""
        self._loaded_temperature = None
        self._actor.begin_rollout(storage, self._temperature())

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Search for action t of these environments; no host sync."""
        return self._actor.act(storage, t, envs)

    def deterministic_policy(self) -> DeterministicPolicy:
        """The policy for one evaluation: greedy search; what it draws is always the same."""
        return DeterministicPolicy(self._greedy_search, self._temperature(), self._config.evaluation.seed)

    def greedy_policy(self) -> GreedyPolicy:
        """The actor alone, without search."""
        policy = self._plan.policy
        return GreedyPolicy(self.network, lambda outputs: policy.to_env(policy.mode(policy.params(outputs))))

    def update(self, storage: RolloutStorage, progress: float) -> UpdateMetrics:
        """Keep a rollout, and learn from all that is kept.

        Args:
            storage: the rollout, collected by search with this policy.
            progress: how much of the run is over, 0 to 1; drives the learning rates where they are annealed.

        Raises:
            DivergenceError: a loss or a gradient was not finite. No step was taken with it; others may have been.
        """
        rates = self._set_learning_rates(progress)
        replay = self._keep(storage)
        try:
            values = self._learn(replay, storage)
        except DivergenceError:
            # it would spoil every minibatch until it is overwritten
            replay.take_back()
            raise
        # only now: the steps must see observations as the search saw them, and only what has proved sound counts
        self.network.encoder.observe(storage.obs[:-1].flatten(0, 1).index_select(0, storage.valid_index))
        values |= {"actor_lr": rates[0], "critic_lr": rates[1], "dual_lr": rates[2]}
        return UpdateMetrics(values | {"replay_size": replay.num_steps})

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs of the learner."""
        return {
            "network": self.network.state_dict(),
            "target": self._target.state_dict(),
            "duals": self._duals.state_dict(),
            "optimizers": {name: part.state_dict() for name, part in self._optimizers._asdict().items()},
            "num_updates": self.num_updates,
            "own": {
                # before the first update of a continued run, the replay is still as it was saved
                "replay": self._replay.state_dict() if self._replay else self._saved_replay,
                "noise_generator": self._noise_generator.get_state(),
                "minibatch_generator": self._minibatch_generator.get_state(),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a learner with the same shapes."""
        self.network.load_state_dict(state["network"])
        self._target.load_state_dict(state["target"])
        self._duals.load_state_dict(state["duals"])
        self._loaded_temperature = None
        for name, part in self._optimizers._asdict().items():
            part.load_state_dict(state["optimizers"][name])
        self.num_updates, own = state["num_updates"], state["own"]
        self._replay, self._saved_replay = None, self._fitting(own["replay"])
        self._noise_generator.set_state(own["noise_generator"].cpu())
        self._minibatch_generator.set_state(own["minibatch_generator"].cpu())

    def load_model(self, state: dict[str, Any]) -> None:
        """Take the networks of a `state_dict`, whatever its multipliers were.

        They are evaluated at the temperature of then until a rollout begins, and trained from the configured one.
        """
        self.network.load_state_dict(state["network"])
        self._target.load_state_dict(state["target"])
        self._loaded_temperature = temperature_of(state["duals"]).to(self._device)

    def _learn(self, replay: Replay, storage: RolloutStorage) -> dict[str, float]:
        """Take the gradient steps of an update; returns what they and the rollout's searches were like."""
        follows_each_step = self._config.spo.targets == "sequences"
        rows_G = []
        for batch in self._batches.draw(replay):
            rows_G.append(self._take_step(batch))
            if follows_each_step:
                self._follow()
        if not follows_each_step:
            self._follow()
        # the one host sync of an update
        means = torch.cat([torch.stack(rows_G).mean(0), self._actor.statistics(storage)])
        numbers = self._ranks.mean(means).tolist()
        self.num_updates += 1
        values = dict(zip(STEP_METRICS, numbers, strict=False)) | name_statistics(numbers[len(STEP_METRICS) :])
        check_finite(self.num_updates, values)
        return values | {"num_gradient_steps": len(rows_G)}

    def _fitting(self, replay: dict[str, Any] | None) -> dict[str, Any] | None:
        """A saved replay, unless it is of another number of environments: the run was shared out differently then."""
        return replay if replay and replay["obs"].shape[2] == self._config.environment.num_envs else None

    def _keep(self, storage: RolloutStorage) -> Replay:
        experience = self._actor.experience(storage, self._config.environment.reward_scale)
        if self._replay is None:
            self._replay = Replay(storage.obs, experience, self._config.num_replay_rollouts(self._ranks.size))
            if self._saved_replay is not None:
                self._replay.load_state_dict(self._saved_replay)
                self._saved_replay = None
        self._replay.add(storage.obs, experience)
        return self._replay

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the target networks follow: target += share (online - target)."""
        targets: list[Tensor] = list(self._target.parameters())
        torch._foreach_lerp_(targets, list(self.network.parameters()), self._config.spo.target_update)

    @torch.no_grad()
    def _temperature(self) -> Tensor:
        if self._loaded_temperature is not None:
            return self._loaded_temperature
        temperature_1: Tensor = self._duals()["temperature"]
        return temperature_1.squeeze(0)

    def _set_learning_rates(self, progress: float) -> tuple[float, float, float]:
        optimization = self._config.optimization
        actor_lr, critic_lr = optimization.actor_lr, optimization.critic_lr
        if optimization.anneal_lr:
            actor_lr, critic_lr = linear_anneal(actor_lr, progress), linear_anneal(critic_lr, progress)
        rates = (actor_lr, critic_lr, optimization.dual_lr)
        for optimizer, rate in zip(self._optimizers, rates, strict=True):
            optimizer.set_learning_rates([rate])
        return rates


def _executed(step: GradientStep, execution: Execution, device: torch.device) -> Callable[[Batch], Tensor]:
    """The gradient step as it is to be executed: plain, compiled, captured, or both."""
    if execution.is_plain:
        return step.by_autograd
    function: Callable[..., Tensor] = compiled(step.by_function, execution, device)
    if not execution.uses_graphs:
        return lambda batch: function(*batch)
    graphed = GraphedCall(function)
    return lambda batch: graphed(*batch).clone()
