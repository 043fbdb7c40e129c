"""PPO's learner: acts during a rollout, then makes several passes over it.

Shapes: T horizon, N envs, S = T + 1, P distribution parameters, G gradient steps, K metrics of each.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.compilation import compiled, resolve_execution
from trainers.config import PpoConfig
from trainers.distributions import Distribution, make_distribution
from trainers.divergence import check_finite
from trainers.envs import EnvSpec
from trainers.errors import ConfigError
from trainers.networks import ActorCritic, GreedyPolicy
from trainers.normalize import RewardNormalizer, share_moments
from trainers.optim import FlatAdam, linear_anneal
from trainers.ppo.acting import Actor
from trainers.ppo.batch import Batch
from trainers.ppo.losses import Objective
from trainers.ppo.passes import Passes
from trainers.ppo.step import GradientStep
from trainers.returns import explained_variance, gae
from trainers.rollout import RolloutStorage
from trainers.runtime import Runtime

__all__ = ["Ppo", "UpdateMetrics"]

MOST_IMAGES: Final = 512
"""Images that pass the network at once outside the minibatches: 60 MB of float32 input."""


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
        self._ranks = ranks = runtime.ranks
        mean_over_ranks = ranks.mean if ranks.size > 1 else None
        self._spec, self._device = spec, runtime.device
        self._core, self._optimization = config.training_core, config.optimization
        self._environment, architecture = config.environment, config.architecture
        self._distribution = _make_distribution(spec, self._device, is_squashed=architecture.squash_actions)
        self.network = ActorCritic(
            spec.obs,
            self._distribution.num_outputs,
            num_free=self._distribution.num_free,
            free_init=architecture.init_log_std,
            hidden_sizes=architecture.hidden_sizes,
            activation=architecture.activation,
            shared=architecture.shared,
            normalizes_obs=config.environment.normalize_obs,
            uses_bf16=config.hardware.precision == "bf16",
            generator=torch.Generator().manual_seed(runtime.seeds.network),
        ).to(self._device)
        self._optimizer = FlatAdam(
            [self.network.actor_parameters(), self.network.critic_parameters()],
            self._learning_rates(0.0),
            eps=self._optimization.adam_eps,
            max_grad_norm=self._optimization.max_grad_norm,
            mean_over_ranks=mean_over_ranks,
        )
        self._reward_normalizer = RewardNormalizer(config.environment.num_envs, self._core.gamma).to(self._device)
        self._noise_generator = torch.Generator(self._device).manual_seed(runtime.seeds.policy)
        self._minibatch_generator = torch.Generator(self._device).manual_seed(runtime.seeds.minibatch)
        hardware, core = config.hardware, config.training_core
        execution = resolve_execution(
            hardware.compile,
            self._device,
            core.total_timesteps,
            is_image=spec.obs.is_image,
            wants_graphs=hardware.cuda_graphs,
            is_alone=ranks.size == 1,
        )
        if ranks.size > 1:
            share_moments(self.network, ranks.sum)
            share_moments(self._reward_normalizer, ranks.sum)
        self._actor = Actor(self.network, self._distribution, execution, self._device)
        self._estimate = compiled(self._estimate_plain, execution.mode, self._device)
        objective = Objective(
            core.clip_coef,
            core.clip_value_loss,
            core.value_coef,
            core.entropy_coef,
            core.normalize_advantage,
            mean_over_ranks,
        )
        self._passes = Passes(
            GradientStep(self.network, self._distribution, objective, self._optimizer),
            num_epochs=core.num_epochs,
            num_minibatches=core.num_minibatches,
            batch_size=config.batch_size,
            target_kl=core.target_kl,
            execution=execution,
            device=self._device,
            mean_over_ranks=ranks.mean,
        )

    def make_storage(self, num_envs: int) -> RolloutStorage:
        """Allocate a rollout with room for the behaviour policy's parameters and its noise."""
        return RolloutStorage(self._spec, self._core.horizon, num_envs, self._device, self._actor.extras())

    def begin_rollout(self, storage: RolloutStorage) -> None:
        """Draw the noise of every action of the rollout in one call."""
        self._distribution.draw_noise_(storage.extras["noise"], self._noise_generator)

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        """Sample action t of these environments; no host sync."""
        return self._actor.act(storage, t, envs)

    def deterministic_policy(self) -> Callable[[NDArray[Any], NDArray[np.int_]], NDArray[Any]]:
        """The most probable actions, whenever they are asked for."""
        return lambda obs, _elapsed: self.act_deterministic(obs)

    @torch.inference_mode()
    def act_deterministic(self, obs_NO: NDArray[Any]) -> NDArray[Any]:
        """The most probable actions, for evaluation; draws no random numbers."""
        action: NDArray[Any] = self.greedy_policy()(torch.from_numpy(obs_NO).to(self._device)).cpu().numpy()
        return action

    def greedy_policy(self) -> GreedyPolicy:
        """What `act_deterministic` computes, as a module on the same parameters."""
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
        batch = self._prepare(storage)
        metrics_GK = self._passes.run(batch, storage.valid_index, self._minibatch_generator)
        valid = [rows.index_select(0, storage.valid_index) for rows in (batch.value, batch.advantage)]
        explained = explained_variance(valid[0], valid[0] + valid[1])
        # only now: the passes must see observations as the policy saw them when it acted
        if self._environment.normalize_obs:
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
            "noise_generator": self._noise_generator.get_state(),
            "minibatch_generator": self._minibatch_generator.get_state(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a learner with the same shapes."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        returns = {"discounted_return": self._reward_normalizer.discounted_return}
        had_as_many_envs = state["reward_normalizer"]["discounted_return"].shape == returns["discounted_return"].shape
        # another number of ranks: what is under way in each environment is its own, and starts anew
        self._reward_normalizer.load_state_dict(state["reward_normalizer"] | ({} if had_as_many_envs else returns))
        self._noise_generator.set_state(state["noise_generator"].cpu())
        self._minibatch_generator.set_state(state["minibatch_generator"].cpu())
        self.num_updates = state["num_updates"]

    def load_model(self, state: dict[str, Any]) -> None:
        """Take the networks of a `state_dict`, and nothing else."""
        self.network.load_state_dict(state["network"])

    def _learning_rates(self, progress: float) -> tuple[float, float]:
        actor_lr, critic_lr = self._optimization.actor_lr, self._optimization.critic_lr
        if not self._optimization.anneal_lr:
            return actor_lr, critic_lr
        return linear_anneal(actor_lr, progress), linear_anneal(critic_lr, progress)

    @torch.no_grad()
    def _prepare(self, storage: RolloutStorage) -> Batch:
        """Advantages, values and the behaviour policy's log-probabilities, flattened to [T * N]."""
        flags = (storage.terminated, storage.truncated, storage.valid)
        estimates = self._estimate(
            storage.obs,
            storage.extras["params"],
            storage.extras.get("value"),
            storage.action,
            self._scaled_rewards(storage),
            *flags,
        )
        rows = (storage.obs[:-1], storage.action, *estimates)
        return Batch(*[row.flatten(0, 1) for row in rows])

    def _estimate_plain(
        self,
        obs_S: Tensor,
        params_TNP: Tensor,
        value_TN: Tensor | None,
        action_TN: Tensor,
        reward_TN: Tensor,
        terminated_TN: Tensor,
        truncated_TN: Tensor,
        valid_TN: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, advantages and values [T, N]; the critic runs once, over all rows that have none yet."""
        if value_TN is None:
            value_SN = self._values(obs_S)
        else:
            value_SN = torch.cat([value_TN, self.network.value(obs_S[-1]).unsqueeze(0)])
        advantage_TN = gae(
            reward_TN,
            value_SN[:-1],
            value_SN[1:],
            terminated_TN,
            truncated_TN,
            valid_TN,
            gamma=self._core.gamma,
            gae_lambda=self._core.gae_lambda,
        )
        log_prob_TN, _ = self._distribution.log_prob_and_entropy(params_TNP, action_TN)
        return log_prob_TN, advantage_TN, value_SN[:-1]

    def _values(self, obs_S: Tensor) -> Tensor:
        """V of every row [S, N], in pieces if they are images: their activations would fill the memory."""
        rows = obs_S.flatten(0, 1)
        pieces = torch.split(rows, MOST_IMAGES if self._spec.obs.is_image else len(rows))
        return torch.cat([self.network.value(piece) for piece in pieces]).view(obs_S.shape[:2])

    def _scaled_rewards(self, storage: RolloutStorage) -> Tensor:
        """The rewards as the critic learns them."""
        settings, reward_TN = self._environment, storage.reward
        if settings.normalize_reward:
            done_TN = storage.terminated | storage.truncated
            reward_TN = self._reward_normalizer(reward_TN, done_TN, storage.valid)
        if settings.reward_scale != 1.0:
            reward_TN = reward_TN * settings.reward_scale
        if settings.reward_clip is not None:
            reward_TN = reward_TN.clamp(-settings.reward_clip, settings.reward_clip)
        return reward_TN


def _make_distribution(spec: EnvSpec, device: torch.device, *, is_squashed: bool) -> Distribution:
    action = spec.action
    if not is_squashed or action.kind != "continuous":
        return make_distribution(action.kind, action.sizes)
    bounds = action.low.reshape(-1).tolist(), action.high.reshape(-1).tolist()
    if not np.isfinite(bounds).all():
        raise ConfigError(
            f"architecture.squash_actions: got true for {spec.task}, whose actions lie in {bounds}; expected finite "
            "bounds to squash them into. Set it to false."
        )
    return make_distribution(action.kind, action.sizes, bounds, device)
