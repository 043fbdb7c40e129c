import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.normalize import ObsNormalizer, RewardNormalizer, RunningMoments

GAMMA = 0.9
GOES_ON = torch.zeros(4, dtype=torch.bool)


def rows(num: int, columns: int = 3, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 100.0 + torch.tensor([1e-2, 1.0, 1e3])[:columns] * torch.randn(num, columns, generator=draw)


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(1, 199), max_size=5), seed=st.integers(0, 2**31))
def test_moments_are_those_of_all_rows_however_they_came(cuts: list[int], seed: int) -> None:
    everything, moments = rows(200, seed=seed), RunningMoments((3,))
    for part in np.split(everything.numpy(), sorted(set(cuts))):
        moments.observe(torch.from_numpy(part))
    expected = everything.double()
    torch.testing.assert_close(moments.mean, expected.mean(0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(moments.variance, expected.var(0, correction=0), rtol=1e-9, atol=0.0)
    assert float(moments.count) == 200


def test_rows_that_do_not_count_change_nothing() -> None:
    counts = torch.arange(60) % 3 != 0
    some, kept = RunningMoments((3,)), RunningMoments((3,))
    some.observe(rows(60), counts)
    kept.observe(rows(60)[counts])
    for a, b in zip(some.state_dict().values(), kept.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_normaliser_is_the_identity_until_it_has_seen_something() -> None:
    x = torch.tensor([[3.0, -7.0]])
    assert torch.equal(ObsNormalizer(2)(x), x)


def test_normaliser_standardises_and_cuts() -> None:
    normalizer, seen = ObsNormalizer(3), rows(500)
    normalizer.observe(seen)
    expected = (seen.double() - seen.double().mean(0)) / seen.double().std(0, correction=0)
    torch.testing.assert_close(normalizer(seen).double(), expected, atol=5e-3, rtol=1e-3)
    assert normalizer(torch.tensor([[1e9, -1e9, 0.0]])).tolist()[0][:2] == [10.0, -10.0]


def test_using_the_normaliser_does_not_move_it() -> None:
    normalizer = ObsNormalizer(3)
    normalizer.observe(rows(50))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer(rows(50, seed=1))
    assert all(torch.equal(before[name], value) for name, value in normalizer.state_dict().items())


def test_column_that_never_changes_stays_finite() -> None:
    normalizer = ObsNormalizer(1)
    normalizer.observe(torch.full((10, 1), 3.0))
    assert normalizer(torch.tensor([[3.0], [4.0]])).tolist() == [[0.0], [10.0]]


def rollout(seed: int, horizon: int = 30, num_envs: int = 4) -> tuple[NDArray[np.float64], ...]:
    """Rewards, ends and valid rows under next-step autoreset; dummies hold poison."""
    draw = np.random.default_rng(seed)
    reward, done = draw.normal(1.0, 2.0, (horizon, num_envs)), draw.random((horizon, num_envs)) < 0.15
    valid = np.ones_like(done)
    for t in range(1, horizon):
        valid[t] = ~done[t - 1]
        done[t] &= valid[t]
    reward[~valid] = np.nan
    return reward, done, valid


def slow_deviation(reward: NDArray[np.float64], done: NDArray[np.float64], valid: NDArray[np.float64]) -> float:
    """Of the discounted returns, environment by environment, step by step."""
    returns = []
    for env in range(reward.shape[1]):
        total = 0.0
        for t in range(reward.shape[0]):
            if not valid[t, env]:
                continue
            total = GAMMA * total + reward[t, env]
            returns.append(total)
            total = 0.0 if done[t, env] else total
    return float(np.std(returns))


@pytest.mark.parametrize("cut", [1, 7, 29])
def test_rewards_are_divided_by_the_deviation_of_the_discounted_return(cut: int) -> None:
    reward, done, valid = rollout(seed=3)
    normalizer = RewardNormalizer(4, GAMMA)
    for part in (slice(0, cut), slice(cut, None)):
        flags = (torch.from_numpy(done[part]), torch.from_numpy(valid[part]), GOES_ON)
        scaled = normalizer(torch.from_numpy(reward[part]).float(), *flags)
    expected = np.where(valid, reward, 0.0)[cut:] / slow_deviation(reward, done, valid)
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-4)
    assert scaled.dtype == torch.float32


def test_rewards_that_are_always_zero_stay_zero() -> None:
    none = torch.zeros(5, 2)
    assert torch.equal(RewardNormalizer(2, GAMMA)(none, none.bool(), ~none.bool(), GOES_ON[:2]), none)


def test_reward_normaliser_continues_from_its_state() -> None:
    reward, done, valid = (torch.from_numpy(array) for array in rollout(seed=5))
    first, second = RewardNormalizer(4, GAMMA), RewardNormalizer(4, GAMMA)
    first(reward, done, valid, GOES_ON)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(reward, done, valid, GOES_ON), second(reward, done, valid, GOES_ON))


def test_return_of_a_new_episode_starts_at_its_own_rewards_whatever_was_under_way() -> None:
    normalizer, paid, no = RewardNormalizer(2, 0.5), torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2, dtype=torch.bool)
    for is_new in (GOES_ON[:2], torch.tensor([True, False])):
        normalizer(paid, no, ~no, is_new)
    assert normalizer.discounted_return.tolist() == [2.0, 3.0]
