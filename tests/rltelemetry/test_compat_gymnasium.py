"""`EpisodeTelemetry` on real vector environments: the same numbers as a slow count of every reward."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

gym = pytest.importorskip("gymnasium", reason="Gymnasium is not installed: pip install gymnasium")

from gymnasium.vector import AutoresetMode  # noqa: E402

import rltelemetry  # noqa: E402
from rltelemetry import Telemetry  # noqa: E402
from rltelemetry.compat.gymnasium import EpisodeTelemetry  # noqa: E402
from rltelemetry.handoff import CELL  # noqa: E402
from rltelemetry.testing import FakeMlflow  # noqa: E402

NUM_ENVS = 3
STEPS = 150
INTERVAL = 60


@pytest.fixture
def telemetry(fake_mlflow: FakeMlflow) -> Iterator[Telemetry]:
    fallback = CELL.fallback
    with rltelemetry.configure(tracking_uri=fake_mlflow.uri, console="off", system_metrics=False) as opened:
        yield opened
    CELL.active, CELL.fallback = None, fallback
    structlog.reset_defaults()


Read = Callable[[], dict[str, list[tuple[int, float]]]]


@pytest.fixture
def stored(telemetry: Telemetry, fake_mlflow: FakeMlflow) -> Read:
    def read() -> dict[str, list[tuple[int, float]]]:
        assert telemetry.wait_ready(10.0)
        assert telemetry.flush(10.0)
        found: dict[str, list[tuple[int, float]]] = {}
        for point in fake_mlflow.points(str(telemetry.run_id)):
            found.setdefault(point.key, []).append((point.step, point.value))
        return found

    return read


def make(mode: Any = AutoresetMode.NEXT_STEP) -> Any:
    return gym.make_vec(
        "CartPole-v1", num_envs=NUM_ENVS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )


def counted_slowly(mode: Any) -> list[tuple[int, int, list[int]]]:
    """(timesteps, episodes so far, their lengths) after each step; a pole that stands gives 1 a step."""
    envs = make(mode)
    envs.reset(seed=5)
    envs.action_space.seed(5)
    lengths, running, is_dummy, history = [], [0] * NUM_ENVS, [False] * NUM_ENVS, []
    for step in range(1, STEPS + 1):
        _, _, terminations, truncations, _ = envs.step(envs.action_space.sample())
        for env in range(NUM_ENVS):
            if is_dummy[env]:
                running[env], is_dummy[env] = 0, False
                continue
            running[env] += 1
            if terminations[env] or truncations[env]:
                lengths.append(running[env])
                running[env], is_dummy[env] = 0, mode is AutoresetMode.NEXT_STEP
        history.append((step * NUM_ENVS, len(lengths), list(lengths)))
    return history


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_statistics_are_those_of_the_last_episodes(mode: Any, stored: Read) -> None:
    envs = EpisodeTelemetry(make(mode), window=4, interval=INTERVAL)
    envs.reset(seed=5)
    envs.action_space.seed(5)
    for _ in range(STEPS):
        _, _, _, _, infos = envs.step(envs.action_space.sample())
        assert not any("rltelemetry" in key for key in infos)
    envs.close()

    expected: dict[str, list[tuple[int, float]]] = {}
    emitted_at, emitted = -INTERVAL, 0
    history = counted_slowly(mode)
    for timesteps, episodes, lengths in history:
        is_last = timesteps == history[-1][0]
        if episodes > emitted and (timesteps - emitted_at >= INTERVAL or is_last):
            emitted_at, emitted = timesteps, episodes
            window = lengths[-4:]
            for name, value in {"mean": sum(window) / len(window), "max": max(window), "min": min(window)}.items():
                expected.setdefault(f"actor/{name}_return", []).append((timesteps, value))
                expected.setdefault(f"actor/episode_length_{name}", []).append((timesteps, value))
            expected.setdefault("actor/episodes", []).append((timesteps, episodes))
    assert len(expected["actor/episodes"]) > 3
    assert stored() == expected


def test_before_the_first_episode_nothing_is_said(stored: Read, telemetry: Telemetry) -> None:
    envs = EpisodeTelemetry(make(), interval=1)
    envs.reset(seed=5)
    envs.step(envs.action_space.sample())
    envs.close()
    assert stored() == {}


def test_environments_that_record_their_episodes_themselves_are_taken(stored: Read) -> None:
    envs = EpisodeTelemetry(gym.wrappers.vector.RecordEpisodeStatistics(make()), interval=1)
    envs.reset(seed=5)
    ends = 0
    for _ in range(STEPS):
        *_, infos = envs.step(envs.action_space.sample())
        ends += "episode" in infos
    envs.close()
    assert len(stored()["actor/episodes"]) == ends > 0
