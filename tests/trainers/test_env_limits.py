import pytest

from trainers.config import EnvironmentConfig
from trainers.envs import longest_episode


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (EnvironmentConfig(), 500),
        (EnvironmentConfig(max_episode_steps=7), 7),
        (EnvironmentConfig(task="Pong-v5"), 27_000),
        (EnvironmentConfig(task="Catch-v0"), None),
        (EnvironmentConfig(task="Catch-v0", max_episode_steps=7), 7),
    ],
)
def test_longest_episode_is_what_the_settings_or_else_the_task_says(
    environment: EnvironmentConfig, expected: int | None
) -> None:
    assert longest_episode(environment) == expected
