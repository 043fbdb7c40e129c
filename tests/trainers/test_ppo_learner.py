import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.config import PpoConfig
from trainers.envs import EnvSpec, Step, VectorEnv, make_vector_env
from trainers.errors import ConfigError, DivergenceError
from trainers.ppo import Ppo, UpdateMetrics
from trainers.ranks import Ranks
from trainers.returns import gae
from trainers.rollout import EpisodeStatistics, RolloutStorage, collect
from trainers.runtime import Runtime, spawn_seeds

NUM_ENVS, HORIZON = 8, 16


NORMALIZED = {"normalize_obs": True, "normalize_reward": True}


def config(
    task: str = "CartPole-v1",
    environment: dict[str, Any] | None = None,
    architecture: dict[str, Any] | None = None,
    **core: Any,
) -> PpoConfig:
    sizes = {"horizon": HORIZON, "num_epochs": 2, "num_minibatches": 4, "total_timesteps": 10_000}
    return PpoConfig.model_validate(
        {
            "environment": {"task": task, "num_envs": NUM_ENVS} | (environment or {}),
            "training_core": sizes | core,
            "architecture": architecture or {},
        }
    )


class Session(NamedTuple):
    """A learner, its environments and its rollout."""

    ppo: Ppo
    env: VectorEnv
    storage: RolloutStorage

    def collect(self) -> int:
        return collect(self.ppo, self.env, self.storage, EpisodeStatistics(self.env.num_envs))


def best_actions(ppo: Ppo, obs: NDArray[Any]) -> NDArray[Any]:
    return ppo.deterministic_policy()(obs, np.zeros(len(obs), int))


def session(settings: PpoConfig, seed: int = 1, **changes: Any) -> Session:
    seeds = spawn_seeds(seed)
    environment = settings.environment
    changes = {"num_groups": environment.num_groups} | changes
    env = make_vector_env(environment.task, environment.num_envs, seeds.environment, **changes)
    ppo = Ppo(env.spec, settings, Runtime(torch.device("cpu"), seeds))
    return Session(ppo, env, ppo.make_storage(env.num_envs))


def weights(ppo: Ppo) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in ppo.network.parameters()])


def tensors(state: Any) -> list[torch.Tensor]:
    """All tensors of a nested state, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for child in children for tensor in tensors(child)]


def train(parts: Session, updates: int, first: int = 0) -> list[UpdateMetrics]:
    metrics = []
    for update in range(first, first + updates):
        parts.collect()
        metrics.append(parts.ppo.update(parts.storage, progress=update / 10))
    return metrics


@pytest.mark.parametrize(
    ("task", "environment"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", NORMALIZED),
        ("RubiksCube-v0", {}),
        ("CheetahRun-v1", NORMALIZED | {"num_groups": 2}),
        ("Maze-v0", {}),
        ("Pong-v5", {"num_envs": 2}),
    ],
)
def test_two_runs_with_one_seed_are_bit_identical(task: str, environment: dict[str, Any]) -> None:
    settings = config(task, environment, horizon=8 if task == "Pong-v5" else HORIZON)
    first, second, other = (session(settings, seed) for seed in (1, 1, 2))
    metrics = [train(parts, 3) for parts in (first, second, other)]
    assert torch.equal(weights(first.ppo), weights(second.ppo))
    np.testing.assert_equal(metrics[0], metrics[1])
    assert not torch.equal(weights(first.ppo), weights(other.ppo))
    assert np.isfinite([m.actor_loss for m in metrics[0]]).all()


def test_each_seed_drives_its_own_random_numbers() -> None:
    base = spawn_seeds(1)
    firsts, moved = [], []
    for seeds in (base, base._replace(network=0), base._replace(policy=0), base._replace(minibatch=0)):
        env = make_vector_env("CartPole-v1", NUM_ENVS, base.environment)
        ppo = Ppo(env.spec, config(), Runtime(torch.device("cpu"), seeds))
        parts = Session(ppo, env, ppo.make_storage(NUM_ENVS))
        firsts.append(weights(ppo))
        parts.collect()
        firsts[-1] = torch.cat([firsts[-1], parts.storage.action.flatten()])
        parts.ppo.update(parts.storage, 0.0)
        moved.append(weights(ppo))
    network, policy, minibatch = (torch.equal(firsts[0], first) for first in firsts[1:])
    assert (network, policy, minibatch) == (False, False, True)
    num_weights = len(moved[0])
    assert torch.equal(firsts[0][:num_weights], firsts[2][:num_weights])
    assert not torch.equal(moved[0], moved[3])


def test_state_restores_a_learner_bit_for_bit() -> None:
    settings = config(environment=NORMALIZED)
    parts = session(settings)
    train(parts, 2)
    parts.collect()
    state = copy.deepcopy(parts.ppo.state_dict())
    resumed = session(settings, seed=9).ppo
    resumed.load_state_dict(state)
    assert (resumed.num_updates, torch.equal(weights(resumed), weights(parts.ppo))) == (2, True)
    copied = copy.deepcopy(parts.storage)
    assert resumed.update(copied, 0.5) == parts.ppo.update(parts.storage, 0.5)
    parts.ppo.begin_rollout(parts.storage)
    resumed.begin_rollout(copied)
    assert torch.equal(parts.storage.extras["noise"], copied.extras["noise"])
    assert torch.equal(weights(resumed), weights(parts.ppo))


def test_generators_of_another_kind_of_device_start_anew_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    state = copy.deepcopy(session(config()).ppo.state_dict()) | {"num_updates": 3}
    for name in ("noise_generator", "minibatch_generator"):
        state["own"][name] = torch.zeros(16, dtype=torch.uint8)  # as CUDA's are
    first, second, other = (session(config(), seed=seed) for seed in (1, 1, 2))
    for parts in (first, second, other):
        caplog.clear()
        parts.ppo.load_state_dict(state)
        assert [record.getMessage() for record in caplog.records] == [
            "The random generators of the checkpoint are another kind of device's than cpu: they start anew."
        ]
        parts.ppo.begin_rollout(parts.storage)
    fresh = session(config())
    fresh.ppo.begin_rollout(fresh.storage)
    noise, *others = (parts.storage.extras["noise"] for parts in (first, second, other, fresh))
    assert [torch.equal(noise, another) for another in others] == [True, False, False]


class TwoRanks(Ranks):
    """The first of two, the other one of which does the same with fewer valid rows."""

    fewest = 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return 2 * tensor

    def gather(self, value: Any) -> list[Any]:
        return [value, self.fewest]


@pytest.mark.parametrize(("fewest", "num_steps"), [(1, 1), (60, 60), (64, 64), (100, 64)])
def test_ranks_take_equally_many_steps_whatever_rows_each_has(fewest: int, num_steps: int) -> None:
    ranks = TwoRanks(0, 2)
    ranks.fewest = fewest
    env = make_vector_env("CartPole-v1", NUM_ENVS, 1)
    settings = config(num_minibatches=64, num_epochs=2)
    ppo = Ppo(env.spec, settings, Runtime(torch.device("cpu"), spawn_seeds(1), ranks))
    parts = Session(ppo, env, ppo.make_storage(NUM_ENVS))
    (metrics,) = train(parts, 1)
    assert metrics.num_gradient_steps == 2 * num_steps


def test_state_is_loaded_without_running_code(tmp_path: Any) -> None:
    parts = session(config())
    train(parts, 1)
    torch.save(parts.ppo.state_dict(), tmp_path / "state.pt")
    resumed = session(config(), seed=9).ppo
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(weights(resumed), weights(parts.ppo))


@pytest.mark.parametrize("environment", [{}, NORMALIZED | {"reward_scale": 0.5, "reward_clip": 2.0}])
def test_whatever_dummy_rows_hold_changes_no_bit_of_an_update(environment: dict[str, Any]) -> None:
    clean, poisoned = (session(config(environment=environment), max_episode_steps=None) for _ in range(2))
    metrics = []
    for parts in (clean, poisoned):
        train(parts, 2)
        parts.collect()
        dummy = ~parts.storage.valid
        assert dummy.any()
        if parts is poisoned:
            parts.storage.reward[dummy] = torch.nan
            parts.storage.extras["params"][dummy] = torch.nan
            parts.storage.obs[:-1][dummy] = torch.nan  # their values only follow terminations here
            assert not parts.storage.truncated.any()
        metrics.append(parts.ppo.update(parts.storage, 0.0))
    assert metrics[0] == metrics[1]
    for a, b in zip(*(tensors(parts.ppo.state_dict()) for parts in (clean, poisoned)), strict=True):
        assert torch.equal(a, b)


def test_every_epoch_takes_each_valid_row_once_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = session(config(num_epochs=3))
    train(parts, 1)
    parts.collect()
    taken: list[torch.Tensor] = []
    step = parts.ppo._passes._step.on_rows

    def spy(batch: Any) -> torch.Tensor:
        taken.append(batch.obs)
        return step(batch)

    monkeypatch.setattr(parts.ppo._passes._step, "on_rows", spy)
    metrics = parts.ppo.update(parts.storage, 0.0)
    expected = parts.storage.obs[:-1][parts.storage.valid]
    epochs = [torch.cat(taken[start : start + 4]) for start in (0, 4, 8)]
    for rows in epochs:
        assert sorted(rows.tolist()) == sorted(expected.tolist())
    assert not torch.equal(epochs[0], epochs[1])
    assert len(expected) < HORIZON * NUM_ENVS
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert metrics.num_gradient_steps == len(taken) == 12


def test_truncated_episode_bootstraps_with_the_value_of_its_last_observation() -> None:
    parts = session(config("Pendulum-v1"), max_episode_steps=5)
    parts.collect()
    storage, core = parts.storage, config().training_core
    batch = parts.ppo._estimator.batch(storage)
    advantage_TN = batch.advantage.view(HORIZON, NUM_ENVS)
    cut = storage.truncated.nonzero()[0]
    t, env = int(cut[0]), int(cut[1])
    with torch.no_grad():
        value, last = parts.ppo.network.value(storage.obs[[t, t + 1], env])
    assert (t, bool(storage.valid[t + 1, env])) == (4, False)
    torch.testing.assert_close(advantage_TN[t, env], storage.reward[t, env] + core.gamma * last - value)


def test_advantages_and_log_probabilities_are_those_of_the_policy_that_acted() -> None:
    parts = session(config())
    parts.collect()
    batch, storage, core = parts.ppo._estimator.batch(parts.storage), parts.storage, config().training_core
    with torch.no_grad():
        value_SN = torch.stack([parts.ppo.network.value(row) for row in storage.obs])
        log_prob_TN = torch.stack(
            [
                torch.distributions.Categorical(logits=parts.ppo.network.policy(obs)).log_prob(action)
                for obs, action in zip(storage.obs[:-1], storage.action, strict=True)
            ]
        )
    rows = (value_SN[:-1], value_SN[1:], storage.terminated, storage.truncated, storage.valid)
    advantage_TN = gae(storage.reward, *rows, gamma=core.gamma, gae_lambda=core.gae_lambda)
    torch.testing.assert_close(batch.advantage, advantage_TN.flatten(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch.log_prob, log_prob_TN.flatten())


def test_passes_see_observations_as_the_policy_saw_them_when_it_acted() -> None:
    parts = session(config("Pendulum-v1", NORMALIZED, num_epochs=1, num_minibatches=1))
    metrics = train(parts, 3)  # in the only step of each update the policy is still the one that acted
    assert [m.approx_kl for m in metrics] == pytest.approx([0.0] * 3, abs=1e-6)
    normalizer = parts.ppo.network.encoder.normalizer
    assert normalizer is not None
    assert float(normalizer.moments.count) == 3 * HORIZON * NUM_ENVS


def test_statistics_know_the_valid_observations_of_all_rollouts() -> None:
    parts, seen = session(config(environment=NORMALIZED)), []
    for _ in range(3):
        parts.collect()
        seen.append(parts.storage.obs[:-1][parts.storage.valid].clone())
        parts.ppo.update(parts.storage, 0.0)
    normalizer, rows = parts.ppo.network.encoder.normalizer, torch.cat(seen).double()
    assert normalizer is not None
    assert len(rows) < 3 * HORIZON * NUM_ENVS
    torch.testing.assert_close(normalizer.moments.mean, rows.mean(0))
    torch.testing.assert_close(normalizer.moments.variance, rows.var(0, correction=0))


def test_critic_learns_scaled_and_cut_rewards_and_the_storage_keeps_them_as_paid() -> None:
    environment = {"reward_scale": 0.1, "reward_clip": 0.5}
    parts = session(config("Pendulum-v1", environment, gamma=0.0))
    parts.collect()
    batch, paid = parts.ppo._estimator.batch(parts.storage), parts.storage.reward.flatten()
    torch.testing.assert_close(batch.advantage + batch.value, (0.1 * paid).clamp(-0.5, 0.5))
    assert paid.min() < -5.0


def test_acting_deterministically_moves_no_statistic() -> None:
    parts = session(config("Pendulum-v1", NORMALIZED))
    train(parts, 1)
    before = copy.deepcopy(parts.ppo.network.state_dict())
    best_actions(parts.ppo, parts.env.reset())
    assert all(torch.equal(before[name], value) for name, value in parts.ppo.network.state_dict().items())


def test_squashed_policy_acts_within_the_bounds_and_learns() -> None:
    parts = session(config("Pendulum-v1", architecture={"squash_actions": True, "init_log_std": 1.5}))
    with torch.no_grad():
        executed = parts.ppo.act(parts.storage, 0, slice(None))
    torch.testing.assert_close(executed, 2.0 * parts.storage.action[0].tanh())
    parts.collect()
    assert parts.storage.action.abs().max() > 4.0
    metrics = train(parts, 2)
    assert np.isfinite([m.actor_loss for m in metrics]).all()
    # the entropy of the executed action: at most that of a uniform one
    assert all(m.entropy <= np.log(4.0) + 1e-3 for m in metrics)
    assert np.abs(best_actions(parts.ppo, parts.env.reset())).max() <= 2.0


def test_squashing_into_infinite_bounds_is_refused() -> None:
    spec = make_vector_env("Pendulum-v1", 1, 0).spec
    spec = spec._replace(action=spec.action._replace(high=np.array([np.inf])))
    settings = config("Pendulum-v1", architecture={"squash_actions": True})
    with pytest.raises(ConfigError, match=r"squash_actions: got true for Pendulum-v1, .*expected finite bounds"):
        Ppo(spec, settings, Runtime(torch.device("cpu"), spawn_seeds(1)))


def test_illegal_actions_are_never_taken() -> None:
    parts = session(config("Minesweeper-v0"))
    for _ in range(4):
        parts.collect()  # the environments would refuse one
        parts.ppo.update(parts.storage, 0.0)
    mask = parts.storage.obs[:-1][..., parts.env.spec.obs.mask]
    chosen = mask.gather(-1, parts.storage.action.unsqueeze(-1)).squeeze(-1)
    assert chosen[parts.storage.valid].all()
    assert not mask.all()


def test_actions_are_sampled_from_the_policy() -> None:
    parts = session(config("Pendulum-v1"))
    parts.collect()
    with torch.no_grad():
        mean = parts.ppo.network.policy(parts.storage.obs[:-1])[..., :1]
    torch.testing.assert_close(parts.storage.action, mean + parts.storage.extras["noise"])


def test_deterministic_action_is_the_mode_and_draws_nothing() -> None:
    parts = session(config())
    obs = parts.env.reset()
    before = copy.deepcopy(parts.ppo.state_dict())
    action = best_actions(parts.ppo, obs)
    logits = parts.ppo.network.policy(torch.from_numpy(obs))
    np.testing.assert_array_equal(action, logits.argmax(-1).numpy())
    np.testing.assert_array_equal(action, best_actions(parts.ppo, obs))
    assert torch.equal(before["own"]["noise_generator"], parts.ppo.state_dict()["own"]["noise_generator"])


@pytest.mark.parametrize(("anneal", "expected"), [(True, 0.75), (False, 1.0)])
def test_learning_rates_fall_with_progress_if_they_are_to(anneal: bool, expected: float) -> None:
    changes = {"optimization": {"actor_lr": 1e-3, "critic_lr": 2e-3, "anneal_lr": anneal}}
    parts = session(PpoConfig.model_validate(config().model_dump() | changes))
    parts.collect()
    metrics = parts.ppo.update(parts.storage, progress=0.25)
    assert (metrics.actor_lr, metrics.critic_lr) == pytest.approx((1e-3 * expected, 2e-3 * expected))


def test_update_at_the_end_of_the_schedule_moves_nothing() -> None:
    parts = session(config())
    parts.collect()
    before = weights(parts.ppo)
    parts.ppo.update(parts.storage, progress=1.0)
    assert torch.equal(weights(parts.ppo), before)


def test_target_kl_ends_the_passes() -> None:
    counts = []
    for target_kl in (None, 1e-7):
        parts = session(config(num_epochs=5, target_kl=target_kl))
        counts.append(train(parts, 1)[0].num_gradient_steps)
    assert counts == [20, 4]


def test_metrics_start_where_the_policy_is_unmoved() -> None:
    parts = session(config(num_epochs=1, num_minibatches=1, normalize_advantage=False))
    parts.collect()
    batch = parts.ppo._estimator.batch(parts.storage).select(parts.storage.valid_index)
    metrics = parts.ppo.update(parts.storage, 0.0)
    assert metrics.approx_kl == pytest.approx(0.0, abs=1e-6)
    assert metrics.clip_fraction == 0.0
    assert metrics.actor_loss == pytest.approx(-float(batch.advantage.mean()), rel=1e-4)
    assert metrics.critic_loss == pytest.approx(float(batch.advantage.square().mean()) / 2, rel=1e-4)
    assert metrics.entropy == pytest.approx(np.log(2), rel=1e-3)


def test_entropy_bonus_pulls_towards_the_uniform_policy() -> None:
    entropies = []
    for entropy_coef in (0.0, 10.0):
        parts = session(config(entropy_coef=entropy_coef, num_epochs=4))
        with torch.no_grad():
            parts.ppo.network.policy_head.bias.copy_(torch.tensor([1.0, -1.0]))
        entropies.append(train(parts, 2)[-1].entropy)
    assert entropies[1] > entropies[0] + 0.02


@pytest.mark.parametrize("spoilt", ["actor_trunk", "critic_trunk"])
def test_loss_that_is_not_finite_is_noticed_with_the_update(spoilt: str) -> None:
    parts = session(config())
    train(parts, 1)
    parts.collect()
    with torch.no_grad():
        next(getattr(parts.ppo.network, spoilt).parameters()).fill_(torch.nan)
    with pytest.raises(DivergenceError, match=r"^update 2: got .*nan.*; expected finite numbers"):
        parts.ppo.update(parts.storage, 0.0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
def test_reward_that_spoils_the_loss_is_told_in_the_same_update_and_spoils_nothing_else(poison: float) -> None:
    parts = session(config())
    train(parts, 1)
    parts.collect()
    before = weights(parts.ppo).clone()
    parts.storage.reward[3, 1] = poison
    with pytest.raises(DivergenceError, match="update 2: got"):
        parts.ppo.update(parts.storage, 0.0)
    assert torch.isfinite(weights(parts.ppo)).all()
    parts.collect()
    assert np.isfinite(parts.ppo.update(parts.storage, 0.0).actor_loss)
    assert not torch.equal(weights(parts.ppo), before)


def test_discounted_returns_start_anew_with_the_environments() -> None:
    parts = session(config("Pendulum-v1", NORMALIZED))
    train(parts, 1)
    parts.storage.start_anew()
    train(parts, 1)
    expected = torch.zeros(NUM_ENVS, dtype=torch.float64)
    for reward_N in parts.storage.reward:
        expected = config().training_core.gamma * expected + reward_N
    torch.testing.assert_close(parts.ppo._reward_normalizer.discounted_return, expected)


def test_policy_that_has_diverged_never_reaches_the_environments() -> None:
    parts = session(config("Pendulum-v1"))
    with torch.no_grad():
        parts.ppo.network.policy_head.bias.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="Pendulum-v1 actions"):
        parts.collect()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_learns_on_a_gpu_from_the_weights_of_the_cpu(task: str) -> None:
    seeds, settings = spawn_seeds(1), config(task)
    env = make_vector_env(task, NUM_ENVS, seeds.environment)
    ppo, on_cpu = (Ppo(env.spec, settings, Runtime(torch.device(name), seeds)) for name in ("cuda", "cpu"))
    assert torch.equal(weights(ppo).cpu(), weights(on_cpu))
    metrics = train(Session(ppo, env, ppo.make_storage(NUM_ENVS)), 2)
    assert np.isfinite([m.actor_loss for m in metrics]).all()


Pay = Callable[[np.random.Generator, NDArray[Any], NDArray[Any]], NDArray[Any]]
"""(random numbers, what the observation says, actions) -> rewards."""


class OneStep:
    """Every step ends the episode, and every second one is a dummy; the observation says 0 or 1."""

    def __init__(self, spec: EnvSpec, num_envs: int, pay: Pay) -> None:
        self.spec, self.num_envs = spec, num_envs
        self.groups = [(self, slice(0, num_envs))]
        self._pay = pay
        self._draw = np.random.default_rng(0)
        self._valid = np.zeros(num_envs, bool)

    def reset(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        self._valid[:] = False
        return self._show(out)

    def send(self, actions: NDArray[Any]) -> None:
        self._valid = ~self._valid
        paid = self._pay(self._draw, self._said, actions.reshape(self.num_envs))
        self._reward = np.where(self._valid, paid, -100.0).astype(np.float32)

    def receive(self, out: NDArray[np.float32]) -> Step:
        ended, no = self._valid.copy(), np.zeros_like(self._valid)
        return Step(self._show(out), self._reward, ended, no, ended.copy(), self._reward, ended.copy(), {})

    def _show(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        self._said = self._draw.integers(0, 2, self.num_envs)
        out[...] = np.eye(out.shape[1], dtype=np.float32)[self._said]
        return out


def taught(task: str, pay: Pay, num_updates: int, **changes: Any) -> Ppo:
    settings = PpoConfig.model_validate(config(task, num_epochs=4).model_dump() | changes)
    parts = session(settings)
    env: Any = OneStep(parts.env.spec, NUM_ENVS, pay)
    parts = parts._replace(env=env)
    for _ in range(num_updates):
        parts.collect()
        parts.ppo.update(parts.storage, 0.0)
    return parts.ppo


@pytest.mark.parametrize("shared", [False, True])
def test_learns_to_do_what_the_observation_says(shared: bool) -> None:
    ppo = taught("CartPole-v1", lambda _, said, action: action == said, 15, architecture={"shared": shared})
    assert ppo.network.policy(torch.eye(4)[:2]).softmax(-1).diagonal().min() > 0.9


def test_finds_the_better_arm_of_a_bandit_that_pays_by_chance() -> None:
    ppo = taught("CartPole-v1", lambda draw, _, arm: draw.random(NUM_ENVS) < np.where(arm == 1, 0.8, 0.4), 25)
    assert ppo.network.policy(torch.eye(4)[:2]).softmax(-1)[:, 1].min() > 0.9


def test_finds_the_best_of_continuous_actions_for_each_observation() -> None:
    ppo = taught("Pendulum-v1", lambda _, said, action: -np.square(action - np.where(said == 1, 1.0, -0.5)), 60)
    best = best_actions(ppo, np.eye(3, dtype=np.float32)[:2]).reshape(2)
    np.testing.assert_allclose(best, [-0.5, 1.0], atol=0.2)
