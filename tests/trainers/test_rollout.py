from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.envs import Step, VectorEnv, make_vector_env
from trainers.errors import ConfigError, DivergenceError
from trainers.rollout import EpisodeStatistics, EpisodeSummary, RolloutStorage, collect

HORIZON, NUM_ENVS = 16, 3
NAMES = ("obs", "action", "reward", "terminated", "truncated", "valid")


class Alternating:
    """0 and 1 in turns, the second environment out of step; keeps what it saw in an extra."""

    def begin_rollout(self, storage: RolloutStorage) -> None:
        storage.extras["seen"].zero_()

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> torch.Tensor:
        storage.extras["seen"][t, envs] = storage.obs[t, envs]
        storage.action[t, envs] = (torch.arange(storage.num_envs, device=storage.device)[envs] + t) % 2
        return storage.action[t, envs]


def cart_pole(**changes: Any) -> VectorEnv:
    return make_vector_env("CartPole-v1", NUM_ENVS, 3, max_episode_steps=12, **changes)


def storage_for(env: VectorEnv, **changes: Any) -> RolloutStorage:
    return RolloutStorage(env.spec, HORIZON, env.num_envs, extras={"seen": env.spec.obs.shape}, **changes)


def by_hand(num_steps: int) -> tuple[list[NDArray[np.float32]], list[NDArray[Any]], list[Step]]:
    env = cart_pole()
    obs, actions, steps = [env.reset()], [], []
    for t in range(num_steps):
        actions.append((np.arange(NUM_ENVS) + t % HORIZON) % 2)
        steps.append(env.step(actions[-1]))
        obs.append(steps[-1].obs)
    return obs, actions, steps


def test_storage_holds_what_the_environments_said_over_several_rollouts() -> None:
    env = cart_pole()
    storage, statistics = storage_for(env), EpisodeStatistics(NUM_ENVS)
    obs, actions, steps = by_hand(2 * HORIZON)
    for start in (0, HORIZON):
        rows = slice(start, start + HORIZON)
        num_steps = collect(Alternating(), env, storage, statistics)
        np.testing.assert_array_equal(storage.obs.numpy(), np.stack(obs[start : start + HORIZON + 1]))
        np.testing.assert_array_equal(storage.extras["seen"].numpy(), np.stack(obs[rows]))
        np.testing.assert_array_equal(storage.action.numpy(), np.stack(actions[rows]))
        for name in ("reward", "terminated", "truncated", "valid"):
            expected = np.stack([getattr(step, name) for step in steps[rows]])
            np.testing.assert_array_equal(getattr(storage, name).numpy(), expected)
        assert num_steps == storage.num_valid == int(storage.valid.sum()) < HORIZON * NUM_ENVS
        assert torch.equal(storage.valid_index, storage.valid.flatten().nonzero().squeeze(1))


def test_steps_since_the_beginning_of_each_episode_are_envpools_own() -> None:
    env, by_hand_env = cart_pole(), cart_pole()
    storage = storage_for(env)
    by_hand_env.reset()
    steps = [by_hand_env.step((np.arange(NUM_ENVS) + t % HORIZON) % 2) for t in range(2 * HORIZON)]
    expected = [np.zeros(NUM_ENVS), *(step.info["elapsed_step"] for step in steps)]
    for start in (0, HORIZON):
        collect(Alternating(), env, storage, EpisodeStatistics(NUM_ENVS))
        np.testing.assert_array_equal(storage.elapsed.numpy(), np.stack(expected[start : start + HORIZON + 1]))


def test_dummy_at_the_seam_of_two_rollouts_is_known() -> None:
    env = make_vector_env("Pendulum-v1", 2, 0, max_episode_steps=4)
    storage = RolloutStorage(env.spec, 4, 2)

    class Still:
        def begin_rollout(self, storage: RolloutStorage) -> None:
            pass

        def act(self, storage: RolloutStorage, t: int, envs: slice) -> torch.Tensor:
            storage.action[t, envs] = 0.0
            return storage.action[t, envs]

    statistics = EpisodeStatistics(2)
    assert collect(Still(), env, storage, statistics) == 8
    assert storage.truncated[-1].all()
    assert collect(Still(), env, storage, statistics) == 6
    assert storage.valid.all(1).tolist() == [False, True, True, True]


@pytest.mark.parametrize("staged", [False, True])
def test_cut_truncates_what_is_open_and_the_next_rollout_begins_with_a_reset(staged: bool) -> None:
    env, other = cart_pole(), cart_pole()
    storage, statistics = storage_for(env, staged=staged), EpisodeStatistics(NUM_ENVS)
    collect(Alternating(), env, storage, statistics)
    ended_N = storage.terminated[-1] | ~storage.valid[-1]
    before_TN = storage.truncated.clone()
    storage.cut()
    assert (storage.truncated[-1] | ended_N).all()
    assert not (storage.truncated[-1] & ended_N).any()
    assert torch.equal(storage.truncated[:-1], before_TN[:-1])
    collect(Alternating(), other, storage, statistics)
    np.testing.assert_array_equal(storage.obs[0].numpy(), cart_pole().reset())


def test_twins_on_the_host_change_nothing() -> None:
    rollouts = []
    for staged in (False, True):
        env = cart_pole()
        storage = storage_for(env, staged=staged)
        for _ in range(2):
            collect(Alternating(), env, storage, EpisodeStatistics(NUM_ENVS))
        rollouts.append([getattr(storage, name) for name in (*NAMES, "valid_index")])
    assert all(torch.equal(a, b) for a, b in zip(*rollouts, strict=True))


def test_groups_that_step_in_turns_change_nothing() -> None:
    rollouts = []
    for num_groups in (1, 3):
        env, statistics = cart_pole(num_groups=num_groups), EpisodeStatistics(NUM_ENVS)
        storage = storage_for(env)
        for _ in range(3):
            collect(Alternating(), env, storage, statistics)
        rollouts.append([*(getattr(storage, name) for name in NAMES), torch.tensor(statistics.returns)])
    assert all(torch.equal(a, b) for a, b in zip(*rollouts, strict=True))


def test_images_are_kept_as_bytes() -> None:
    env = make_vector_env("Breakout-v5", 2, 0)
    storage = RolloutStorage(env.spec, 3, 2, extras={"seen": env.spec.obs.shape})
    collect(Alternating(), env, storage, EpisodeStatistics(2))
    assert (storage.obs.dtype, storage.obs.shape) == (torch.uint8, (4, 2, 4, 84, 84))
    assert torch.equal(storage.obs[:-1].float(), storage.extras["seen"])
    assert storage.obs[-1].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_rollout_on_a_gpu_is_that_of_the_cpu() -> None:
    rollouts = []
    for device in ("cpu", "cuda"):
        env = cart_pole()
        storage = storage_for(env, device=device)
        collect(Alternating(), env, storage, EpisodeStatistics(NUM_ENVS))
        rollouts.append([getattr(storage, name).cpu() for name in (*NAMES, "valid_index")])
    assert all(torch.equal(a, b) for a, b in zip(*rollouts, strict=True))


def test_tensors_of_a_rollout_can_be_learnt_from() -> None:
    env = cart_pole()
    storage = storage_for(env)
    collect(Alternating(), env, storage, EpisodeStatistics(NUM_ENVS))
    weight = torch.ones(env.spec.obs.shape, requires_grad=True)
    (storage.obs @ weight).square().sum().backward()  # tensors made in inference mode would be refused here
    assert weight.grad is not None


class Replay:
    """An environment of one group that says what it is told to."""

    def __init__(self, steps: list[Step]) -> None:
        self.spec, self.num_envs = cart_pole().spec, 2
        self.groups = [(self, slice(0, 2))]
        self._steps = iter(steps)

    def reset(self, out: NDArray[Any]) -> NDArray[np.float32]:
        out[...] = 0.0
        return out

    def send(self, actions: NDArray[Any]) -> None:
        pass

    def receive(self, out: NDArray[Any]) -> Step:
        step = next(self._steps)
        out[...] = step.obs
        return step


def step(reward: tuple[float, float], valid: tuple[bool, bool] = (True, True), obs: float = 0.0) -> Step:
    no = np.zeros(2, bool)
    obs_NO = np.full((2, 4), obs, np.float32)
    paid = np.array(reward, np.float32)
    return Step(obs_NO, paid, no, no.copy(), np.array(valid), paid, no.copy(), {})


def replay(*steps: Step) -> None:
    env: Any = Replay(list(steps))
    storage = RolloutStorage(env.spec, len(steps), 2, extras={"seen": (4,)})
    collect(Alternating(), env, storage, EpisodeStatistics(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reward_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    with pytest.raises(DivergenceError, match=r"got reward (nan|inf) in environment 1, row 1; expected finite"):
        replay(step((0, 0)), step((0, bad)))


def test_observation_that_is_not_finite_is_named_with_its_place() -> None:
    with pytest.raises(DivergenceError, match=r"got obs .*nan.* in environment 0, row 2"):
        replay(step((0, 0)), step((0, 0), obs=np.nan))


def test_reward_of_a_dummy_row_is_nobodys_concern() -> None:
    replay(step((0, 0)), step((0, np.nan), valid=(True, False)))


def test_horizon_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"horizon: got 1; expected at least 2"):
        RolloutStorage(cart_pole().spec, 1, 2)


# -- episode statistics


def slow_episodes(reward: NDArray[Any], done: NDArray[Any], valid: NDArray[Any]) -> tuple[list[float], list[int]]:
    """Step by step, environment by environment."""
    returns: list[float] = []
    lengths: list[int] = []
    sums, steps = np.zeros(reward.shape[1]), np.zeros(reward.shape[1], int)
    for t, env in np.ndindex(*reward.shape):
        if valid[t, env]:
            sums[env] += float(reward[t, env])
            steps[env] += 1
        if valid[t, env] and done[t, env]:
            returns.append(float(sums[env]))
            lengths.append(int(steps[env]))
            sums[env] = steps[env] = 0
    return returns, lengths


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), end_rate=st.sampled_from([0.0, 0.05, 0.4]), cuts=st.integers(1, 4))
def test_statistics_agree_with_counting_step_by_step(seed: int, end_rate: float, cuts: int) -> None:
    draw = np.random.default_rng(seed)
    reward = draw.normal(size=(40, 4)).astype(np.float32)
    valid, done = np.ones((40, 4), bool), draw.random((40, 4)) < end_rate
    for t in range(1, 40):
        valid[t] = ~done[t - 1]
        done[t] &= valid[t]
    reward[~valid], done[~valid] = np.nan, True
    statistics = EpisodeStatistics(4, window=10_000)
    for rows in np.array_split(np.arange(40), cuts):
        statistics.add(reward[rows], done[rows], valid[rows])
    returns, lengths = slow_episodes(reward, done, valid)
    np.testing.assert_allclose(list(statistics.returns), returns, rtol=0, atol=1e-12)
    assert (list(statistics.lengths), statistics.num_finished) == (lengths, len(returns))


def test_summary_covers_the_last_episodes_and_counts_all() -> None:
    statistics = EpisodeStatistics(1, window=2)
    rewards = np.array([[9.0], [0.0], [2.0], [3.0], [0.0], [7.0]])
    ends = np.array([[1], [0], [0], [1], [0], [1]], bool)
    valid = np.array([[1], [0], [1], [1], [0], [1]], bool)
    statistics.add(rewards, ends, valid)
    assert statistics.summary() == EpisodeSummary(3, 6.0, 7.0, 5.0, 1.5, 2.0, 1.0)


def test_before_the_first_end_there_is_nothing_to_sum_up() -> None:
    statistics = EpisodeStatistics(1)
    statistics.add(np.ones((5, 1)), np.zeros((5, 1), bool), np.ones((5, 1), bool))
    assert statistics.summary() == EpisodeSummary(0, None, None, None, None, None, None)
