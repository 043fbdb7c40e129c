"""What the presets reach: seeds x presets, each by the real command, into tables and pictures.

    nox -s bench -- learning
    python benchmarks/learning.py --presets ppo/acrobot spo/acrobot --seeds 1 2 3 4 5
    python benchmarks/learning.py --show

A preset is ALGORITHM/TASK, and a run of it `ALGORITHM --config configs/ALGORITHM_TASK.yaml --seed N`. The deterministic
evaluations of runs are kept in docs/learning_ALGORITHM.json, with their commands and what they ran on; a run takes the
place of the one with its seed. Runs with further flags stand apart, as TASK FLAGS: they are not what the preset
reaches. A run holds a digest of its preset's values: a preset that was changed wants all its seeds run again, and a
test says so. From these files come

- a table for each algorithm: final is the last evaluation, of the policy that training ended with;
- a table of SPO beside PPO: environment steps until the first evaluation at the task's target or above, the median of
  the seeds and the range. A seed that never gets there counts as later than all others. Evaluations come every so many
  steps, which is how much later than needed it may be seen;
- docs/learning_ALGORITHM.png, a small picture for each task; SPO's shows PPO's curves, too.
"""

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
from commands import ROOT, events_of
from ruamel.yaml import YAML

ALGORITHMS: Final = {"ppo": "tab:blue", "spo": "tab:orange"}
"""And their colours."""

TARGETS: Final = {
    "cartpole": 475.0,
    "acrobot": -90.0,
    "pendulum": -200.0,
    "lunarlander": 200.0,
    "bipedalwalker": 280.0,
    "halfcheetah": 2500.0,
    "hopper": 2000.0,
    "walker2d": 2800.0,
    "ant": 2000.0,
    "pong": 20.0,
    "breakout": 400.0,
    "maze": 0.75,
    "rubikscube": 0.9,
    "slidingtile": 10.0,
    "sokoban": -4.0,
    "game2048": 5000.0,
}
"""The mean return that a task's presets should reach."""

QUICK: Final = ("cartpole", "acrobot", "pendulum", "lunarlander", "maze", "halfcheetah", "hopper")
"""Tasks whose PPO a CPU finishes within minutes."""

Runs = list[dict[str, Any]]


def config_of(preset: str) -> Path:
    algorithm, task = preset.split("/")
    return Path("configs") / (f"{algorithm}.yaml" if task == "cartpole" else f"{algorithm}_{task}.yaml")


def digest_of(config: Path) -> str:
    """The values of a preset, as eight digits: a run made with others is not a run of this preset."""
    values = YAML(typ="safe").load(ROOT / config)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


PRESETS: Final = [
    preset
    for algorithm in ALGORITHMS
    for task in TARGETS
    if (ROOT / config_of(preset := f"{algorithm}/{task}")).exists()
]


def run(preset: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """Train once; returns the evaluations and what the run was."""
    algorithm = preset.split("/", maxsplit=1)[0]
    words = [algorithm, "--config", str(config_of(preset)), "--seed", str(seed), *flags]
    start = time.perf_counter()
    events = events_of(words)
    evaluations = [event for event in events if event["category"] == "EVALUATOR"]
    result = {
        "command": " ".join(words),
        "preset": digest_of(config_of(preset)),
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "timesteps": [event["timesteps"] for event in evaluations],
        "mean_return": [round(event["mean_return"], 3) for event in evaluations],
    }
    print(f"  {result['command']}: {result['mean_return'][-1]:.4g} in {result['seconds']} s", flush=True)
    return result


def measure(presets: list[str], seeds: list[int], jobs: int, flags: list[str]) -> None:
    for preset in presets:
        with ThreadPoolExecutor(jobs) as pool:
            for one in pool.map(lambda seed, preset=preset: run(preset, seed, flags), seeds):
                keep(" ".join([preset, *flags]), one)


def keep(variant: str, one: dict[str, Any]) -> None:
    """Put a run in its file at once: who stops early keeps what there is."""
    algorithm, name = variant.split("/", maxsplit=1)
    results = load(algorithm)
    others = [run for run in results.get(name, {"runs": []})["runs"] if run["seed"] != one["seed"]]
    facts = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
    results[name] = {"facts": facts, "runs": sorted([*others, one], key=lambda run: run["seed"])}
    results_of(algorithm).write_text(json.dumps(results, indent=1) + "\n")


def results_of(algorithm: str) -> Path:
    return ROOT / "docs" / f"learning_{algorithm}.json"


def load(algorithm: str) -> dict[str, Any]:
    path = results_of(algorithm)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def names_in(algorithm: str, results: dict[str, Runs]) -> Iterator[tuple[str, float]]:
    """What has runs, `TASK` or `TASK FLAGS`, and the task's target."""
    for task, target in TARGETS.items():
        for key in sorted(results):
            of, name = key.split("/", maxsplit=1)
            if of == algorithm and name.split()[0] == task:
                yield name, target


def table(algorithm: str, results: dict[str, Runs]) -> None:
    print(f"\n| {algorithm:13} | {'steps':>9} | seeds | {'target':>7} | {'final':>16} | reached it after | seconds |")
    print(f"|{'-' * 15}|{'-' * 11}|{'-' * 7}|{'-' * 9}|{'-' * 18}|{'-' * 18}|{'-' * 9}|")
    for name, target in names_in(algorithm, results):
        runs = results[f"{algorithm}/{name}"]
        finals = [one["mean_return"][-1] for one in runs]
        spread = statistics.stdev(finals) if len(finals) > 1 else 0.0
        reached = list(all_at(runs, target))
        said = f"{median_of(reached, runs):.0f} ({len(reached)} of {len(runs)})"
        print(
            f"| {name:13} | {runs[0]['timesteps'][-1]:9} | {len(runs):5} | {target:7} "
            f"| {statistics.mean(finals):7.4g} +- {spread:5.4g} | {said:>16} "
            f"| {statistics.median(one['seconds'] for one in runs):7.0f} |"
        )
    missing = [preset for preset in PRESETS if preset.startswith(f"{algorithm}/") and preset not in results]
    print(f"\nnot run: {', '.join(missing) or 'none'}")


def comparison(results: dict[str, Runs]) -> None:
    print("\n| task | return | SPO: environment steps | evaluated every | PPO | evaluated every | PPO / SPO |")
    print("|---|---|---|---|---|---|---|")
    for task, target in TARGETS.items():
        both = [results[preset] for preset in (f"spo/{task}", f"ppo/{task}") if preset in results]
        if len(both) < 2:
            continue
        cells, medians = [], []
        for runs in both:
            reached = sorted(all_at(runs, target))
            every = runs[0]["timesteps"][1] - runs[0]["timesteps"][0]
            medians.append(median_of(reached, runs))
            span = f"{reached[0]} to {reached[-1]}, {len(reached)} of {len(runs)}" if reached else "none reached it"
            cells += [f"{medians[-1]:.0f} ({span})", str(every)]
        ratio = "-" if medians[0] == float("inf") else f"{medians[1] / medians[0]:.1f}"
        print(f"| {task} | {target:g} | {' | '.join(cells)} | {ratio} |")


def median_of(reached: list[int], runs: Runs) -> float:
    """Who has not reached it would have needed longer than all others."""
    return statistics.median([*reached, *[float("inf")] * (len(runs) - len(reached))])


def all_at(runs: Runs, target: float) -> Iterator[int]:
    """Of each run that reaches the target: the steps until its first evaluation there or above."""
    for one in runs:
        pairs = zip(one["timesteps"], one["mean_return"], strict=True)
        if (first := next((steps for steps, mean_return in pairs if mean_return >= target), None)) is not None:
            yield first


def draw(algorithm: str, results: dict[str, Runs]) -> None:
    """A small picture for each task: the median of the seeds, the seeds themselves, and the target."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(names_in(algorithm, results))
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, (name, target) in zip(axes.flat, names, strict=False):
        shown = [of for of in dict.fromkeys(["ppo", algorithm]) if f"{of}/{name}" in results]
        for of in shown:
            curves(axis, of, results[f"{of}/{name}"])
        axis.axhline(target, color="tab:gray", linestyle="--", linewidth=0.8)
        num_seeds = len(results[f"{algorithm}/{name}"])
        axis.set_title(f"{name}, {num_seeds} seed{'s' * (num_seeds > 1)}", fontsize=9)
        axis.tick_params(labelsize=7)
        if len(shown) > 1:
            axis.set_xscale("log")
            axis.legend(fontsize=7)
        else:
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    figure.supxlabel("environment steps", fontsize=8)
    figure.supylabel("mean return of deterministic episodes", fontsize=8)
    figure.tight_layout()
    picture = ROOT / "docs" / f"learning_{algorithm}.png"
    figure.savefig(picture, dpi=110)
    print(f"\n{picture.relative_to(ROOT)}")


def curves(axis: Any, algorithm: str, runs: Runs) -> None:
    for one in runs:
        axis.plot(one["timesteps"], one["mean_return"], color=ALGORITHMS[algorithm], alpha=0.35, linewidth=0.8)
    middle = [
        [statistics.median(column) for column in zip(*(one[what] for one in runs), strict=False)]
        for what in ("timesteps", "mean_return")
    ]
    axis.plot(*middle, color=ALGORITHMS[algorithm], linewidth=1.8, label=algorithm.upper())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [f"ppo/{task}" for task in QUICK]
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=default, metavar="ALGORITHM/TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=[], help="further flags of the runs; the last option"
    )
    parser.add_argument("--show", action="store_true", help="run nothing; tables and pictures of what there is")
    options = parser.parse_args()
    if not options.show:
        measure(options.presets, options.seeds, options.jobs, options.flags)
    stored = {algorithm: load(algorithm) for algorithm in ALGORITHMS}
    results = {f"{name}/{task}": found["runs"] for name, tasks in stored.items() for task, found in tasks.items()}
    for algorithm in ALGORITHMS:
        table(algorithm, results)
    comparison(results)
    for algorithm in ALGORITHMS:
        draw(algorithm, results)


if __name__ == "__main__":
    main()
