import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.returns import discounted_sum, explained_variance, gae

Rows = dict[str, NDArray[np.float64]]


def column(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).unsqueeze(1)


def flags(*values: int) -> torch.Tensor:
    return column(*values, dtype=torch.bool)


def random_rollout(seed: int, horizon: int, num_envs: int, end_rate: float) -> dict[str, torch.Tensor]:
    """A rollout as next-step autoreset makes it: after every end a dummy row without reward and without end."""
    draw = np.random.default_rng(seed)
    terminated, truncated, valid = (np.zeros((horizon, num_envs), bool) for _ in range(3))
    done = draw.random(num_envs) < 0.3
    for t in range(horizon):
        valid[t] = ~done
        kind = draw.random(num_envs)
        terminated[t] = valid[t] & (kind < end_rate)
        truncated[t] = valid[t] & (kind > 1 - end_rate)
        done = terminated[t] | truncated[t]
    arrays = {
        "reward_TN": draw.normal(size=(horizon, num_envs)) * valid,
        "value_SN": draw.normal(size=(horizon + 1, num_envs)),
        "terminated_TN": terminated,
        "truncated_TN": truncated,
        "valid_TN": valid,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def advantages(
    reward: torch.Tensor, value_SN: torch.Tensor, *flags: torch.Tensor, gamma: float = 0.5, gae_lambda: float = 0.5
) -> torch.Tensor:
    """`gae` of rows that each hold the observation that the one before led to; the last value is behind them."""
    return gae(reward, value_SN[:-1], value_SN[1:], *flags, gamma=gamma, gae_lambda=gae_lambda)


def slow_gae(rollout: dict[str, torch.Tensor], gamma: float, gae_lambda: float) -> NDArray[np.float64]:
    """Episode by episode, from the definition: the sum of (gamma * lambda)^k * delta over what is left of it."""
    reward, value, terminated, truncated, valid = (rows.numpy() for rows in rollout.values())
    advantage = np.zeros_like(reward)
    horizon, num_envs = reward.shape
    for env in range(num_envs):
        for start in range(horizon):
            for t in range(start, horizon if valid[start, env] else start):
                bootstrap = 0.0 if terminated[t, env] else gamma * value[t + 1, env]
                delta = reward[t, env] + bootstrap - value[t, env]
                advantage[start, env] += (gamma * gae_lambda) ** (t - start) * delta
                if terminated[t, env] or truncated[t, env]:
                    break
    return advantage


def test_hand_computed_advantages_without_an_end() -> None:
    advantage = advantages(
        column(1, 2, 3),
        column(10, 20, 30, 40),
        flags(0, 0, 0),
        flags(0, 0, 0),
        flags(1, 1, 1),
    )
    # deltas: 1 + 10 - 10, 2 + 15 - 20, 3 + 20 - 30
    assert torch.equal(advantage, column(1 + 0.25 * (-3 + 0.25 * -7), -3 + 0.25 * -7, -7))


def test_termination_ignores_the_value_that_follows() -> None:
    advantage = advantages(
        column(1, 5, 7),
        column(10, 20, 30, 40),
        flags(1, 0, 0),
        flags(0, 0, 0),
        flags(1, 0, 1),
    )
    assert torch.equal(advantage, column(1 - 10, 0, 7 + 20 - 30))


def test_truncation_bootstraps_with_the_value_of_the_last_observation() -> None:
    advantage = advantages(
        column(1, 5, 7),
        column(10, 20, 30, 40),
        flags(0, 0, 0),
        flags(1, 0, 0),
        flags(1, 0, 1),
    )
    assert torch.equal(advantage, column(1 + 0.5 * 20 - 10, 0, 7 + 20 - 30))


def test_truncation_ends_the_sum_whatever_kind_of_row_follows() -> None:
    advantage = advantages(column(1, 2), column(10, 20, 30), flags(0, 0), flags(1, 0), flags(1, 1))
    assert torch.equal(advantage, column(1 + 10 - 10, 2 + 15 - 20))


def test_sum_ends_where_the_next_row_does_not_follow_but_its_value_still_counts() -> None:
    value, next_value, no = column(10, 20), column(40, 30), flags(0, 0)
    ends = (no, no, flags(1, 1))
    advantage = gae(column(1, 2), value, next_value, *ends, gamma=0.5, gae_lambda=0.5, follows_TN=flags(0, 1))
    assert torch.equal(advantage, column(1 + 20 - 10, 2 + 15 - 20))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    horizon=st.integers(1, 24),
    end_rate=st.sampled_from([0.0, 0.1, 0.5]),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_agrees_with_the_definition_episode_by_episode(
    seed: int, horizon: int, end_rate: float, gamma: float, gae_lambda: float
) -> None:
    rollout = random_rollout(seed, horizon, 5, end_rate)
    advantage = advantages(*rollout.values(), gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantage.numpy(), slow_gae(rollout, gamma, gae_lambda), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_dummy_rows_hold_changes_nothing(seed: int) -> None:
    rollout = random_rollout(seed, 32, 8, 0.2)
    expected = advantages(*rollout.values(), gamma=0.9, gae_lambda=0.8)
    dummy = ~rollout["valid_TN"]
    after_termination = torch.zeros_like(dummy)
    after_termination[1:] = rollout["terminated_TN"][:-1]
    rollout["reward_TN"][dummy] = torch.nan
    rollout["value_SN"][:-1][after_termination] = torch.nan
    poisoned = advantages(*rollout.values(), gamma=0.9, gae_lambda=0.8)
    assert dummy.any()
    assert torch.equal(poisoned, expected)
    assert torch.equal(poisoned[dummy], torch.zeros_like(poisoned[dummy]))


def test_environments_know_nothing_of_each_other() -> None:
    rollout = random_rollout(3, 24, 6, 0.2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    expected = advantages(*rollout.values(), gamma=0.9, gae_lambda=0.8)[:, order]
    assert torch.equal(advantages(*(rows[:, order] for rows in rollout.values()), gamma=0.9, gae_lambda=0.8), expected)


def test_lambda_one_gives_the_discounted_return_of_the_episode() -> None:
    ends = flags(0, 0, 1)
    value = column(0.3, -2, 5, 9)
    advantage = advantages(column(1, 2, 4), value, ends, flags(0, 0, 0), flags(1, 1, 1), gamma=0.5, gae_lambda=1.0)
    torch.testing.assert_close(advantage + value[:-1], column(1 + 1 + 1, 2 + 2, 4))


def test_float32_stays_float32_and_needs_no_gradient() -> None:
    rollout = random_rollout(0, 8, 3, 0.2)
    rollout["value_SN"] = rollout["value_SN"].float().requires_grad_()
    rollout["reward_TN"] = rollout["reward_TN"].float()
    advantage = advantages(*rollout.values(), gamma=0.9, gae_lambda=0.8)
    assert (advantage.dtype, advantage.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33])
def test_doubling_solves_the_recursion(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    delta = torch.randn(length, 2, generator=generator, dtype=torch.float64)
    decay = torch.rand(length, 2, generator=generator, dtype=torch.float64)
    expected, following = torch.empty_like(delta), torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(length)):
        following = delta[t] + decay[t] * following
        expected[t] = following
    torch.testing.assert_close(discounted_sum(delta, decay), expected)


# --- explained variance


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("value", "expected"), [(row(1, 2, 3), 1.0), (row(5, 5, 5), 0.0), (row(3, 2, 1), -3.0), (row(11, 12, 13), 1.0)]
)
def test_explained_variance(value: torch.Tensor, expected: float) -> None:
    assert float(explained_variance(value, row(1, 2, 3))) == pytest.approx(expected)


@settings(max_examples=30)
@given(target=st.floats(-1e3, 1e3, width=32), num_rows=st.integers(1, 9))
def test_explained_variance_of_equal_targets_is_unknown(target: float, num_rows: int) -> None:
    value = torch.arange(num_rows, dtype=torch.float32)
    assert math.isnan(float(explained_variance(value, torch.full((num_rows,), target))))


@pytest.mark.parametrize("target", [1e-23, 1e-20])
def test_explained_variance_of_nearly_equal_targets_is_unknown(target: float) -> None:
    value = torch.tensor([0.0, 1.0])
    assert math.isnan(float(explained_variance(value, torch.tensor([0.0, target]))))


@pytest.mark.parametrize("poison", [math.nan, math.inf, 100.0])
def test_rows_that_do_not_count_explain_nothing_whatever_they_hold(poison: float) -> None:
    value, target, valid = row(1, 4, poison, 3, poison), row(2, 2, poison, 5, 0), row(1, 1, 0, 1, 0)
    counted = valid > 0
    assert float(explained_variance(value, target, valid)) == float(explained_variance(value[counted], target[counted]))
    assert math.isnan(float(explained_variance(value, target, torch.zeros(5))))
    assert math.isnan(float(explained_variance(value, row(2, 2, poison, 2, 7), valid)))


def test_explained_variance_has_no_gradient() -> None:
    assert not explained_variance(row(1, 2, 3).requires_grad_(), row(1, 2, 4)).requires_grad
