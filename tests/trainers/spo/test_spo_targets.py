import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.returns import gae
from trainers.spo.targets import stream_targets

R, T, N = 3, 4, 5


def stream(seed: int, end_rate: float) -> dict[str, torch.Tensor]:
    """Rollouts that follow on one another, dummies after every end."""
    rng = np.random.default_rng(seed)
    ends = rng.random((R * T, N)) < end_rate
    is_true_end = rng.random((R * T, N)) < 0.5
    valid = np.ones((R * T, N), bool)
    for t in range(1, R * T):
        valid[t] = ~(ends[t - 1] & valid[t - 1])
        ends[t] &= valid[t]
    value = rng.normal(size=(R * T + 1, N))
    return {
        "value": torch.from_numpy(np.stack([value[r * T : r * T + T + 1] for r in range(R)])),
        "reward": torch.from_numpy(rng.normal(size=(R * T, N))).view(R, T, N),
        "terminated": torch.from_numpy(ends & is_true_end).view(R, T, N),
        "truncated": torch.from_numpy(ends & ~is_true_end).view(R, T, N),
        "valid": torch.from_numpy(valid).view(R, T, N),
        "goes_on": torch.tensor([[True] * N, [True] * N, [False] * N]),
    }


def targets_of(case: dict[str, torch.Tensor], gamma: float, lam: float) -> torch.Tensor:
    return stream_targets(*case.values(), gamma=gamma, gae_lambda=lam)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0, 0.6), st.floats(0, 1), st.floats(0, 1))
def test_stream_is_one_long_rollout_to_generalised_advantage_estimation(
    seed: int, end_rate: float, gamma: float, lam: float
) -> None:
    case = stream(seed, end_rate)
    value = torch.cat([case["value"][:, :-1].flatten(0, 1), case["value"][-1, -1:]])
    flat = [case[name].flatten(0, 1) for name in ("reward", "terminated", "truncated", "valid")]
    advantage = gae(flat[0], value[:-1], value[1:], *flat[1:], gamma=gamma, gae_lambda=lam)
    expected = advantage + value[:-1]
    found = targets_of(case, gamma, lam).flatten(0, 1)
    valid = flat[3]
    torch.testing.assert_close(found[valid], expected[valid])


def test_lambda_0_is_one_step_and_lambda_1_the_discounted_return() -> None:
    case = stream(3, 0.0)
    case["terminated"][-1, -1] = True
    reward = case["reward"].flatten(0, 1)
    one_step = targets_of(case, 0.9, 0.0).flatten(0, 1)
    torch.testing.assert_close(one_step[0], reward[0] + 0.9 * case["value"][0, 1])
    expected = torch.zeros(N, dtype=torch.float64)
    for row in reward.flip(0):
        expected = row + 0.9 * expected
    torch.testing.assert_close(targets_of(case, 0.9, 1.0)[0, 0], expected)


def test_end_stops_value_and_trace_and_a_cut_the_trace_only() -> None:
    case = stream(5, 0.0)
    base = targets_of(case, 0.9, 0.8)
    case["terminated"][1, 2, 0], case["truncated"][1, 2, 1] = True, True
    found = targets_of(case, 0.9, 0.8)
    torch.testing.assert_close(found[1, 2, 0], case["reward"][1, 2, 0])
    torch.testing.assert_close(found[1, 2, 1], case["reward"][1, 2, 1] + 0.9 * case["value"][1, 3, 1])
    torch.testing.assert_close(found[:, :, 2:], base[:, :, 2:])


def test_rollout_that_does_not_follow_on_the_one_before_is_not_looked_into() -> None:
    case = stream(7, 0.0)
    case["goes_on"][0] = False
    broken = targets_of(case, 0.9, 0.8)
    case["reward"][1:] += 100.0
    torch.testing.assert_close(targets_of(case, 0.9, 0.8)[0], broken[0])


def test_dummies_reach_no_other_row_whatever_they_hold() -> None:
    case = stream(11, 0.4)
    clean = targets_of(case, 0.9, 0.8)
    assert not case["valid"].all()
    case["reward"][~case["valid"]] = torch.nan
    found = targets_of(case, 0.9, 0.8)
    torch.testing.assert_close(found[case["valid"]], clean[case["valid"]])
