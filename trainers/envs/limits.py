"""How long an episode of a task can be."""

from typing import Final

import envpool

from trainers.config import EnvironmentConfig

__all__ = ["longest_episode"]

_NO_LIMIT: Final = 2**31 - 1
"""envpool's way to say that a task has none."""


def longest_episode(environment: EnvironmentConfig) -> int | None:
    """Return the steps after which an episode is truncated at the latest; None where nothing truncates it."""
    if environment.max_episode_steps is not None:
        return environment.max_episode_steps
    limit = int(envpool.make_spec(environment.task, **environment.options).config.max_episode_steps)
    return limit if limit < _NO_LIMIT else None
