"""Searching pays: the same weights, untrained, act better with search than without."""

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from spo_parts import Parts

from trainers.evaluation import run_episodes

NUM_EPISODES = 4


def gain(task: str, seed: int, sections: dict[str, Any]) -> float:
    """How much more an episode brings with search, on the same episodes."""
    parts = Parts(task, training_core={"seed": seed}, **sections)
    greedy = parts.spo.greedy_policy()

    def without_search(obs: NDArray[Any], elapsed: NDArray[np.int_]) -> NDArray[Any]:
        action: NDArray[Any] = greedy(torch.from_numpy(obs)).detach().numpy()
        return action

    with_it, without = (
        run_episodes(policy, parts.make_env(100 * seed, NUM_EPISODES), NUM_EPISODES).mean_return
        for policy in (parts.spo.deterministic_policy(), without_search)
    )
    assert with_it is not None
    assert without is not None
    return with_it - without


@pytest.mark.parametrize(
    ("task", "sections"),
    [
        (
            "Sokoban-v0",
            {
                "environment": {"max_episode_steps": 60},
                "search": {"num_particles": 32, "search_depth": 6},
                "spo": {"init_temperature": 0.1},
            },
        ),
        ("Pendulum-v1", {"search": {"num_particles": 32, "search_depth": 12}}),
    ],
)
def test_search_beats_the_policy_alone_by_two_standard_errors(task: str, sections: dict[str, Any]) -> None:
    gains = [gain(task, seed, sections) for seed in range(1, 6)]
    standard_error = statistics.stdev(gains) / math.sqrt(len(gains))
    assert statistics.mean(gains) > 2 * standard_error, gains
