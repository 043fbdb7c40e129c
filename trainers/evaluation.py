"""Deterministic episodes in environments of their own, on a fixed cadence.

Nothing here draws a random number or steps an environment that training uses: a run with evaluation trains exactly
as one without.
Shapes: N evaluation environments.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainers.config import EnvironmentConfig, EvaluationConfig
from trainers.envs import RenewableEnv, VectorEnv, make_vector_env
from trainers.rollout import EpisodeSummary
from trainers.runtime import seed_after

__all__ = ["ActDeterministic", "Evaluator", "run_episodes"]

MAX_EPISODE_STEPS: Final = 108_000
"""Half an hour of Atari. A deterministic policy can walk in circles, in a task without a time limit for ever."""

ActDeterministic = Callable[[NDArray[Any], NDArray[np.int_]], NDArray[Any]]
"""Observations [N, ...], and the steps since each episode began [N] -> actions."""


class Evaluator:
    """Owns the evaluation's environments.

    Args:
        evaluation: cadence, episodes and seed.
        environment: the task.
        update: after how many updates the run begins here; its environments follow on it.
    """

    def __init__(self, evaluation: EvaluationConfig, environment: EnvironmentConfig, update: int = 0) -> None:
        self._config = evaluation
        self._environment = environment
        self._env = RenewableEnv(self._make_env, update) if self.is_enabled else None

    @property
    def is_enabled(self) -> bool:
        """Whether the run evaluates at all."""
        return self._config.eval_interval > 0 and self._config.num_eval_episodes > 0

    def is_due(self, update: int) -> bool:
        """Return whether to evaluate after `update`, counted from 1: every eval_interval-th time."""
        return self.is_enabled and update % self._config.eval_interval == 0

    def evaluate(self, act: ActDeterministic) -> EpisodeSummary:
        """Run one evaluation."""
        assert self._env is not None, "evaluation is switched off"
        return run_episodes(act, self._env.current, self._config.num_eval_episodes)

    def renew(self, update: int) -> None:
        """Go on with environments that follow on `update`, whatever was evaluated before."""
        if self._env is not None:
            self._env.renew(update)

    def close(self) -> None:
        """Release the environments."""
        if self._env is not None:
            self._env.close()

    def _make_env(self, update: int) -> VectorEnv:
        return make_vector_env(
            self._environment.task,
            min(self._config.num_envs, self._config.num_eval_episodes),
            seed_after(self._config.seed, update),
            num_threads=self._environment.num_threads,
            max_episode_steps=self._environment.max_episode_steps,
            options=self._environment.options,
        )


def run_episodes(
    act: ActDeterministic, env: VectorEnv, num_episodes: int, max_episode_steps: int = MAX_EPISODE_STEPS
) -> EpisodeSummary:
    """Run episodes to their ends: the first ones of each environment, equally many in each (give or take one).

    The first to finish anywhere would be the short ones, and the mean biased.

    Args:
        act: what to do.
        env: N environments; all are reset first.
        num_episodes: how many in all.
        max_episode_steps: after so many steps per episode, on average, unfinished ones count as they stand.
    """
    num_envs = env.num_envs
    quota_N = num_episodes // num_envs + (np.arange(num_envs) < num_episodes % num_envs)
    finished_N, length_N, return_N = np.zeros(num_envs, int), np.zeros(num_envs, int), np.zeros(num_envs)
    returns: list[float] = []
    lengths: list[int] = []

    def count(envs_M: NDArray[np.intp]) -> None:
        returns.extend(return_N[envs_M].tolist())
        lengths.extend(length_N[envs_M].tolist())

    obs_NO = env.reset()
    for _ in range(max_episode_steps * int(quota_N.max())):
        step = env.step(act(obs_NO, length_N))
        obs_NO = step.obs
        return_N += np.where(step.valid, step.score, 0.0)
        length_N += step.valid
        ended_N = step.valid & step.finished
        count(np.flatnonzero(ended_N & (finished_N < quota_N)))
        finished_N += ended_N
        return_N[ended_N] = length_N[ended_N] = 0
        if (finished_N >= quota_N).all():
            break
    else:
        count(np.flatnonzero(finished_N < quota_N))
    return _summarize(np.array(returns), np.array(lengths))


def _summarize(returns: NDArray[np.float64], lengths: NDArray[np.int_]) -> EpisodeSummary:
    return EpisodeSummary(
        episodes=returns.size,
        mean_return=float(returns.mean()),
        min_return=float(returns.min()),
        max_return=float(returns.max()),
        episode_length_mean=float(lengths.mean()),
        episode_length_min=float(lengths.min()),
        episode_length_max=float(lengths.max()),
    )
