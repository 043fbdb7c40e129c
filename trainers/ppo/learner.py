"""PPO's learner: acts during a rollout, then makes several passes over it.

Shapes: N envs, O observation, G gradient steps, K metrics of each.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.compilation import Execution, resolve_execution
from trainers.config import PpoConfig
from trainers.divergence import check_finite
from trainers.envs import EnvSpec
from trainers.networks import GreedyPolicy
from trainers.normalize import RewardNormalizer, share_moments
from trainers.optim import FlatAdam, linear_anneal
from trainers.ppo.acting import Actor
from trainers.ppo.estimates import Estimator
from trainers.ppo.losses import Objective
from trainers.ppo.passes import Passes
from trainers.ppo.setup import action_distribution, make_network
from trainers.ppo.step import GradientStep
from trainers.returns import explained_variance
from trainers.rollout import RolloutStorage
from trainers.runtime import Runtime, seed_after

__all__ = ["Ppo", "UpdateMetrics"]


class UpdateMetrics(NamedTuple):
    """One update in numbers; losses and the like are means over its gradient steps.

    `explained_variance` is that of the values from before the update, NaN where all targets are equal.
    """

    actor_loss: float
    critic_loss: float
    entropy: float
    approx_kl: float
    clip_fraction: float
    global_grad_norm: float
    explained_variance: float
    actor_lr: float
    critic_lr: float
    num_gradient_steps: int


class Ppo:
    """Clipped PPO with generalised advantage estimation.

    Args:
        spec: what the environments look like.
        config: the run's configuration.
        runtime: device and seeds.

    Attributes:
        network: the actor and the critic.
        num_updates: updates made so far; the version of the policy.
    """

    def __init__(self, spec: EnvSpec, config: PpoConfig, runtime: Runtime) -> None:
        self.num_updates = 0
        self._ranks, self._device, self._seeds = runtime.ranks, runtime.device, runtime.seeds
        self._spec, self._config, self._optimization = spec, config, config.optimization
        self._distribution = action_distribution(spec, self._device, config.architecture)
        self.network = make_network(spec, self._distribution, config, runtime.seeds.network).to(self._device)
        self._optimizer = self._make_optimizer()
        num_envs, gamma = config.environment.num_envs, config.training_core.gamma
        self._reward_normalizer = RewardNormalizer(num_envs, gamma).to(self._device)
        self._noise_generator = torch.Generator(self._device).manual_seed(runtime.seeds.policy)
        self._minibatch_generator = torch.Generator(self._device).manual_seed(runtime.seeds.minibatch)
        if self._ranks.size > 1:
            share_moments(self.network, self._ranks.sum)
            share_moments(self._reward_normalizer, self._ranks.sum)
        execution = resolve_execution(
            config.hardware.compile,
            self._device,
            config.training_core.total_timesteps,
            is_image=spec.obs.is_image,
            wants_graphs=config.hardware.cuda_graphs,
            is_alone=self._ranks.size == 1,
        )
        self._actor = Actor(self.network, self._distribution, execution, self._device)
        self._estimator = Estimator(
            self.network, self._distribution, self._reward_normalizer, config, execution, self._device
        )
        self._passes = self._make_passes(execution)

    def make_storage(self, num_envs: int) -> RolloutStorage:
        """Allocate a rollout with room for the behaviour policy's parameters and its noise."""
        return RolloutStorage(
            self._spec, self._config.training_core.horizon, num_envs, self._device, self._actor.extras()
        )

    def begin_rollout(self, storage: RolloutStorage) -> None:
        """Draw the noise of every action of the rollout in one call."""
        self._distribution.draw_noise_(storage.extras["noise"], self._noise_generator)

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Sample action t of these environments; no host sync."""
        return self._actor.act(storage, t, envs)

    def deterministic_policy(self) -> Callable[[NDArray[Any], NDArray[np.int_]], NDArray[Any]]:
        """The most probable actions, whenever they are asked for; draws no random numbers."""
        greedy, device = self.greedy_policy(), self._device

        @torch.inference_mode()
        def act(obs: NDArray[Any], _elapsed_N: NDArray[np.int_]) -> NDArray[Any]:
            action: NDArray[Any] = greedy(torch.from_numpy(obs).to(device)).cpu().numpy()
            return action

        return act

    def greedy_policy(self) -> GreedyPolicy:
        """What the deterministic policy computes, as a module on the same parameters."""
        distribution = self._distribution
        return GreedyPolicy(self.network, lambda params: distribution.to_env(distribution.mode(params)))

    def update(self, storage: RolloutStorage, progress: float) -> UpdateMetrics:
        """Improve the policy and the critic on one rollout.

        Args:
            storage: the rollout, collected with this policy.
            progress: how much of the run is over, 0 to 1; drives the learning rates where they are annealed.

        Raises:
            DivergenceError: a loss or a gradient was not finite. No step was taken with it; others may have been.
        """
        rates = self._learning_rates(progress)
        self._optimizer.set_learning_rates(rates)
        batch = self._estimator.batch(storage)
        metrics_GK = self._passes.run(batch, self._dealt(storage.valid_index), self._minibatch_generator)
        valid = [rows.index_select(0, storage.valid_index) for rows in (batch.value, batch.advantage)]
        explained = explained_variance(valid[0], valid[0] + valid[1])
        # only now: the passes must see observations as the policy saw them when it acted
        if self._config.environment.normalize_obs:
            self.network.encoder.observe(batch.obs.index_select(0, storage.valid_index))
        # the one host sync of an update
        values = self._ranks.mean(torch.cat([metrics_GK.mean(0), explained.unsqueeze(0)])).tolist()
        self.num_updates += 1
        metrics = UpdateMetrics._make([*values, *rates, len(metrics_GK)])
        check_finite(self.num_updates, metrics._asdict())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs of the learner: weights, moments, generators, the count."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "reward_normalizer": self._reward_normalizer.state_dict(),
            "num_updates": self.num_updates,
            "own": {
                "noise_generator": self._noise_generator.get_state(),
                "minibatch_generator": self._minibatch_generator.get_state(),
                "discounted_return": self._reward_normalizer.discounted_return,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a learner with the same shapes."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        own, fresh = state["own"], self._reward_normalizer.discounted_return
        # another number of ranks: what is under way in each environment is its own, and starts anew
        returns = own["discounted_return"] if own["discounted_return"].shape == fresh.shape else fresh
        self._reward_normalizer.load_state_dict(state["reward_normalizer"] | {"discounted_return": returns})
        self.num_updates = state["num_updates"]
        self._load_generators(own["noise_generator"].cpu(), own["minibatch_generator"].cpu())

    def load_model(self, state: dict[str, Any]) -> None:
        """Take the networks of a `state_dict`, and nothing else."""
        self.network.load_state_dict(state["network"])

    def _load_generators(self, noise: Tensor, minibatch: Tensor) -> None:
        """Go on with the random numbers of then; with others where these were drawn on another kind of device."""
        if noise.shape == self._noise_generator.get_state().shape:
            self._noise_generator.set_state(noise)
            self._minibatch_generator.set_state(minibatch)
            return
        if self._ranks.is_first:
            logging.getLogger(__name__).warning(
                "The random generators of the checkpoint are another kind of device's than %s: they start anew.",
                self._device,
            )
        self._noise_generator.manual_seed(seed_after(self._seeds.policy, self.num_updates))
        self._minibatch_generator.manual_seed(seed_after(self._seeds.minibatch, self.num_updates))

    def _dealt(self, valid_index: Tensor) -> Tensor:
        """The rows for the passes: all, but where a rank has fewer than minibatches no rank deals more than that one.

        Ranks take each gradient step together: the others would wait for steps that it does not take.
        """
        if self._ranks.size == 1:
            return valid_index
        fewest = min(self._ranks.gather(valid_index.numel()))
        return valid_index[:fewest] if fewest < self._config.training_core.num_minibatches else valid_index

    def _learning_rates(self, progress: float) -> tuple[float, float]:
        actor_lr, critic_lr = self._optimization.actor_lr, self._optimization.critic_lr
        if not self._optimization.anneal_lr:
            return actor_lr, critic_lr
        return linear_anneal(actor_lr, progress), linear_anneal(critic_lr, progress)

    def _make_optimizer(self) -> FlatAdam:
        return FlatAdam(
            [self.network.actor_parameters(), self.network.critic_parameters()],
            self._learning_rates(0.0),
            eps=self._optimization.adam_eps,
            max_grad_norm=self._optimization.max_grad_norm,
            mean_over_ranks=self._mean_over_ranks,
        )

    def _make_passes(self, execution: Execution) -> Passes:
        core = self._config.training_core
        objective = Objective(
            core.clip_coef,
            core.clip_value_loss,
            core.value_coef,
            core.entropy_coef,
            core.normalize_advantage,
            self._mean_over_ranks,
        )
        return Passes(
            GradientStep(self.network, self._distribution, objective, self._optimizer),
            num_epochs=core.num_epochs,
            num_minibatches=core.num_minibatches,
            batch_size=self._config.batch_size,
            target_kl=core.target_kl,
            execution=execution,
            device=self._device,
            mean_over_ranks=self._ranks.mean,
        )

    @property
    def _mean_over_ranks(self) -> Callable[[Tensor], Tensor] | None:
        """None in a process alone: there is nothing to average, in compiled code neither."""
        return self._ranks.mean if self._ranks.size > 1 else None
