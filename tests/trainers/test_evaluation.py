from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.config import EnvironmentConfig, EvaluationConfig
from trainers.envs import Step, make_vector_env
from trainers.evaluation import Evaluator, run_episodes


class ScriptedEnv:
    """Environments whose episodes have the given lengths, in turn, and pay 1 a step; next-step autoreset."""

    def __init__(self, lengths: Sequence[Sequence[int]], truncates: bool = False) -> None:
        self.num_envs = len(lengths)
        self.num_resets = 0
        self._lengths, self._truncates = lengths, truncates

    def reset(self) -> NDArray[np.float32]:
        self.num_resets += 1
        self._episode = [0] * self.num_envs
        self._step = [0] * self.num_envs
        self._was_done = np.zeros(self.num_envs, np.bool_)
        return np.zeros((self.num_envs, 1), np.float32)

    def step(self, actions: NDArray[Any]) -> Step:
        valid, done = ~self._was_done, np.zeros(self.num_envs, np.bool_)
        for env in np.flatnonzero(valid):
            self._step[env] += 1
            lengths = self._lengths[env]
            if self._step[env] == lengths[self._episode[env] % len(lengths)]:
                done[env] = True
                self._step[env] = 0
                self._episode[env] += 1
        self._was_done = done
        never = np.zeros(self.num_envs, np.bool_)
        ends = (never, done) if self._truncates else (done, never)
        # a dummy row pays too, to see that it is not counted
        obs, paid = np.zeros((self.num_envs, 1), np.float32), np.ones(self.num_envs, np.float32)
        return Step(obs, paid, *ends, valid, paid, done, {})


def first_action(obs_NO: NDArray[Any], elapsed_N: NDArray[np.int_]) -> NDArray[Any]:
    return np.zeros(len(obs_NO), np.int64)


@pytest.mark.parametrize(
    ("update", "eval_interval", "num_eval_episodes", "expected"),
    [
        (10, 10, 1, True),
        (20, 10, 1, True),
        (1, 1, 1, True),
        (9, 10, 1, False),
        (11, 10, 1, False),
        (10, 0, 1, False),
        (10, 10, 0, False),
        (10, 0, 0, False),
    ],
)
def test_cadence(update: int, eval_interval: int, num_eval_episodes: int, expected: bool) -> None:
    config = EvaluationConfig(eval_interval=eval_interval, num_eval_episodes=num_eval_episodes)
    assert Evaluator(config, EnvironmentConfig()).is_due(update) is expected


def test_each_environment_gives_its_first_episodes_not_the_first_to_finish() -> None:
    env = ScriptedEnv([[1, 1, 1, 1, 1, 1, 1, 1], [10, 2]])
    summary = run_episodes(first_action, env, 4)  # type: ignore[arg-type]
    assert summary.episodes == 4
    assert summary.mean_return == pytest.approx((1 + 1 + 10 + 2) / 4)
    assert summary.episode_length_mean == pytest.approx((1 + 1 + 10 + 2) / 4)


def test_dummy_rows_count_for_nothing() -> None:
    summary = run_episodes(first_action, ScriptedEnv([[3]]), 3)  # type: ignore[arg-type]
    assert summary == (3, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0)


def test_policy_is_told_how_long_each_episode_has_lasted() -> None:
    told = []

    def listen(obs_NO: NDArray[Any], elapsed_N: NDArray[np.int_]) -> NDArray[Any]:
        told.append(elapsed_N.tolist())
        return first_action(obs_NO, elapsed_N)

    run_episodes(listen, ScriptedEnv([[2, 1], [4]]), 3)  # type: ignore[arg-type]
    # at its end an episode has no next step; a dummy row belongs to none
    assert told == [[0, 0], [1, 1], [0, 2], [0, 3]]


def test_truncated_episodes_count() -> None:
    summary = run_episodes(first_action, ScriptedEnv([[4, 6]], truncates=True), 2)  # type: ignore[arg-type]
    assert summary == (2, 5.0, 6.0, 4.0, 5.0, 6.0, 4.0)


@pytest.mark.parametrize(("num_episodes", "expected"), [(5, 2 * 1 + 2 * 2 + 3), (3, 1 + 2 + 3), (1, 1), (2, 1 + 2)])
def test_a_remainder_goes_to_the_first_environments(num_episodes: int, expected: int) -> None:
    summary = run_episodes(first_action, ScriptedEnv([[1], [2], [3]]), num_episodes)  # type: ignore[arg-type]
    assert summary.episodes == num_episodes
    assert summary.mean_return == pytest.approx(expected / num_episodes)


def test_episodes_without_end_count_as_they_stand() -> None:
    env = ScriptedEnv([[2], [10**9]])
    summary = run_episodes(first_action, env, 4, max_episode_steps=50)  # type: ignore[arg-type]
    assert summary.episodes == 3, "two whole ones, and one that was stopped"
    assert summary.max_return == 100.0
    assert summary.min_return == 2.0


def test_every_evaluation_starts_with_fresh_episodes() -> None:
    env = ScriptedEnv([[5]])
    for _ in range(2):
        assert run_episodes(first_action, env, 1).mean_return == 5.0  # type: ignore[arg-type]
    assert env.num_resets == 2


def test_real_episodes_agree_with_a_step_by_step_account() -> None:
    summary = run_episodes(first_action, make_vector_env("CartPole-v1", 3, seed=5), 6)
    lengths: list[int] = []
    for number in range(3):
        env = make_vector_env("CartPole-v1", 1, seed=5 + number)
        env.reset()
        for _ in range(2):
            length, done = 0, False
            while not done:
                step = env.step(np.zeros(1, np.int64))
                length += int(step.valid[0])
                done = bool((step.terminated | step.truncated)[0])
            lengths.append(length)
    assert summary.episode_length_mean == pytest.approx(np.mean(lengths))
    assert summary.episode_length_max == max(lengths)
    assert summary.min_return == min(lengths)


def test_evaluation_draws_no_random_numbers() -> None:
    evaluator = Evaluator(EvaluationConfig(num_eval_episodes=4, num_envs=2), EnvironmentConfig())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    evaluator.evaluate(first_action)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[union-attr]


def test_evaluator_with_the_same_seed_sees_the_same_episodes() -> None:
    config = EvaluationConfig(num_eval_episodes=6, num_envs=3)
    summaries = [Evaluator(config, EnvironmentConfig()).evaluate(first_action) for _ in range(2)]
    other = Evaluator(config.model_copy(update={"seed": 1}), EnvironmentConfig()).evaluate(first_action)
    assert summaries[0] == summaries[1]
    assert summaries[0] != other


def test_episodes_that_follow_on_an_update_do_not_depend_on_those_before() -> None:
    config = EvaluationConfig(num_eval_episodes=6, num_envs=3)
    busy, idle = Evaluator(config, EnvironmentConfig()), Evaluator(config, EnvironmentConfig())
    first = busy.evaluate(first_action)
    for evaluator in (busy, idle):
        evaluator.renew(5)
    assert busy.evaluate(first_action) == idle.evaluate(first_action) != first
    Evaluator(EvaluationConfig(eval_interval=0), EnvironmentConfig()).renew(5)


def test_evaluator_uses_the_tasks_settings() -> None:
    environment = EnvironmentConfig(max_episode_steps=3)
    summary = Evaluator(EvaluationConfig(num_eval_episodes=2, num_envs=8), environment).evaluate(first_action)
    assert (summary.episodes, summary.episode_length_max) == (2, 3.0)


def test_evaluation_that_is_off_builds_nothing_and_is_never_due() -> None:
    evaluator = Evaluator(EvaluationConfig(eval_interval=0), EnvironmentConfig(task="No-such-task"))
    assert not evaluator.is_enabled
    assert not any(map(evaluator.is_due, range(1, 100)))
    evaluator.close()
