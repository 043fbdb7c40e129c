"""What random legal actions bring: the floor under the targets of presets.

    python benchmarks/random_returns.py
    python benchmarks/random_returns.py --tasks Maze-v0 --episodes 2000

Actions are drawn uniformly among those that the task's mask allows, all choices of a multi-discrete action by
themselves, continuous ones between their bounds.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainers.envs import EnvSpec, make_vector_env
from trainers.evaluation import run_episodes

TASKS: Final = (
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "LunarLander-v3"),
    *("Maze-v0", "Sokoban-v0", "Game2048-v1", "SlidingTilePuzzle-v0"),
)
NUM_ENVS: Final = 50


def random_policy(spec: EnvSpec, seed: int) -> Callable[[NDArray[Any], NDArray[np.int_]], NDArray[Any]]:
    draw, action = np.random.default_rng(seed), spec.action

    def act(obs_NO: NDArray[Any], _elapsed: NDArray[np.int_]) -> NDArray[Any]:
        num_envs = len(obs_NO)
        if action.kind == "continuous":
            return draw.uniform(action.low, action.high, (num_envs, *action.shape)).astype(np.float32)
        if spec.obs.mask is None:
            return draw.integers(0, action.sizes if action.shape else action.sizes[0], (num_envs, *action.shape))
        # where nothing is legal, anything may be chosen
        is_legal = obs_NO[:, spec.obs.mask].reshape(num_envs, -1, action.sizes[0]) + 1e-9
        return (draw.exponential(size=is_legal.shape) / is_legal).argmin(-1).reshape(num_envs, *action.shape)

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"| {'task':20} | mean return of random legal actions | range            | mean length |")
    print(f"|{'-' * 22}|{'-' * 37}|{'-' * 18}|{'-' * 13}|")
    for task in options.tasks:
        with closing(make_vector_env(task, NUM_ENVS, options.seed)) as env:
            found = run_episodes(random_policy(env.spec, options.seed), env, options.episodes)
        span = f"{found.min_return:.1f} to {found.max_return:.1f}"
        print(f"| {task:20} | {found.mean_return:35.3f} | {span:16} | {found.episode_length_mean:11.1f} |", flush=True)


if __name__ == "__main__":
    main()
