"""Gymnasium: a vector wrapper that emits the statistics of finished episodes as ACTOR events.

    envs = EpisodeTelemetry(gymnasium.make_vec("CartPole-v1", num_envs=8))

The keys are those of this project's trainers, so that runs compare. A step of the vector environment counts `num_envs`
timesteps, as in CleanRL's `global_step`.
"""

from typing import Any, Final

import numpy as np
import structlog
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

__all__ = ["EpisodeTelemetry"]

LOGGER: Final = "gymnasium"
INFO_KEY: Final = "rltelemetry_episode"
"""Where Gymnasium's own wrapper leaves its numbers; not `episode`, which may be there already, and taken out again."""


class EpisodeTelemetry(RecordEpisodeStatistics):
    """Logs episodes, mean, minimum and maximum of return and length over the last episodes.

    Args:
        env: a vector environment; every mode of automatic resets is understood.
        window: how many of the last episodes the statistics cover.
        interval: least number of timesteps between two events.

    Attributes:
        timesteps: environment steps so far, over all environments.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], window: int = 100, interval: int = 1000) -> None:
        super().__init__(env, buffer_length=window, stats_key=INFO_KEY)
        self.timesteps = 0
        self._interval = interval
        self._emitted_at = -interval
        self._episodes_emitted = 0
        self._log = structlog.get_logger(LOGGER)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and log if an episode has ended and the last event is old enough."""
        observations, rewards, terminations, truncations, infos = super().step(actions)
        for key in (INFO_KEY, f"_{INFO_KEY}"):
            infos.pop(key, None)
        self.timesteps += self.num_envs
        if self.timesteps - self._emitted_at >= self._interval:
            self._emit()
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Log the episodes that have not been, and close the environment."""
        self._emit()
        super().close(**kwargs)

    def _emit(self) -> None:
        if self.episode_count == self._episodes_emitted:
            return
        self._episodes_emitted = self.episode_count
        self._emitted_at = self.timesteps
        returns, lengths = np.array(self.return_queue, np.float64), np.array(self.length_queue, np.float64)
        self._log.info(
            "rollout",
            category="ACTOR",
            timesteps=self.timesteps,
            episodes=int(self.episode_count),
            mean_return=float(returns.mean()),
            max_return=float(returns.max()),
            min_return=float(returns.min()),
            episode_length_mean=float(lengths.mean()),
            episode_length_max=float(lengths.max()),
            episode_length_min=float(lengths.min()),
        )
