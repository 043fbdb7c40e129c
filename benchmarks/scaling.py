"""What more particles and a longer look ahead bring, and what they cost.

    nox -s bench -- scaling
    python benchmarks/scaling.py --tasks pendulum --particles 4 16 64 --depths 2 4 8 --seeds 1 2 3 --timesteps 24576

Each cell is the real command, `spo --config configs/spo_TASK.yaml`, with search.mode particles, other sizes, and the
preset's budget unless another one is given. Returns are those of one evaluation at the end, which searches alike: mean
and standard deviation over the seeds. Speed is environment steps per second of the whole training but for that, the
median of the seeds; they run one after the other.
"""

import argparse
import itertools
import statistics
from typing import Final, NamedTuple

from commands import events_of

CONFIGS: Final = {"cartpole": "configs/spo.yaml", "pendulum": "configs/spo_pendulum.yaml"}
"""A task with choices, and one with a continuum."""


class Run(NamedTuple):
    """What one training has come to."""

    mean_return: float
    steps_per_second: float


def train(task: str, particles: int, depth: int, seed: int, timesteps: int | None) -> Run:
    sizes = ["--search.num-particles", str(particles), "--search.search-depth", str(depth)]
    budget = ["--training-core.total-timesteps", str(timesteps)] if timesteps else []
    at_the_end = ["--evaluation.eval-interval", "1000000"]
    words = ["spo", "--config", CONFIGS[task], "--seed", str(seed), "--search.mode", "particles"]
    (last,) = [
        event for event in events_of([*words, *sizes, *budget, *at_the_end]) if event["event"] == "training done"
    ]
    return Run(last["mean_return"], last["steps_per_second"])


def report(task: str, particles: int, depth: int, runs: list[Run]) -> None:
    returns = [run.mean_return for run in runs]
    spread = statistics.stdev(returns) if len(returns) > 1 else 0.0
    speed = statistics.median(run.steps_per_second for run in runs)
    print(
        f"| {task:8} | {particles:9} | {depth:5} | {len(runs):5} | {statistics.mean(returns):8.1f} +- {spread:6.1f} "
        f"| {speed:11.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--particles", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--timesteps", type=int, help="instead of the preset's")
    options = parser.parse_args()
    print(f"| {'task':8} | particles | depth | seeds | {'return':18} | env-steps/s |")
    print(f"|{'-' * 10}|{'-' * 11}|{'-' * 7}|{'-' * 7}|{'-' * 20}|{'-' * 13}|")
    for task, particles, depth in itertools.product(options.tasks, options.particles, options.depths):
        runs = [train(task, particles, depth, seed, options.timesteps) for seed in options.seeds]
        report(task, particles, depth, runs)


if __name__ == "__main__":
    main()
