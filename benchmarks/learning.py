"""What PPO's presets reach: seeds x presets, each by the real command, into a table and a picture.

    nox -s bench -- learning
    python benchmarks/learning.py --presets acrobot pendulum --seeds 1 2 3 4 5
    python benchmarks/learning.py --show

Every run is `ppo --config configs/ppo_PRESET.yaml --seed N`. A run's deterministic evaluations are kept in
docs/learning.json, with its command and what it ran on; a preset that is run again replaces what stood there. The
table and docs/learning.png are made from that file: final is the last evaluation, of the policy that training ended
with.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
from ruamel.yaml import YAML

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "docs" / "learning.json"
PICTURE: Final = ROOT / "docs" / "learning.png"

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
    "sokoban": -4.0,
    "game2048": 5000.0,
}
"""The mean return that each preset should reach."""

QUICK: Final = ("cartpole", "acrobot", "pendulum", "lunarlander", "maze", "halfcheetah", "hopper")
"""Presets that a CPU finishes within minutes."""


def config_of(preset: str) -> Path:
    return Path("configs") / ("ppo.yaml" if preset == "cartpole" else f"ppo_{preset}.yaml")


def run(preset: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """Train once; returns the evaluations and what the run was."""
    words = ["ppo", "--config", str(config_of(preset)), "--seed", str(seed), *flags]
    unseen = ["--no-mlflow", "--logging.console", "json", "--checkpointing.no-save"]
    command = [str(Path(sys.executable).parent / "ppo"), *words[1:], *unseen]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    events = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    evaluations = [event for event in events if event["category"] == "EVALUATOR"]
    result = {
        "command": " ".join(words),
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "timesteps": [event["timesteps"] for event in evaluations],
        "mean_return": [round(event["mean_return"], 3) for event in evaluations],
    }
    print(f"  {result['command']}: {result['mean_return'][-1]:.1f} in {result['seconds']} s", flush=True)
    return result


def measure(presets: list[str], seeds: list[int], jobs: int, flags: list[str]) -> None:
    for preset in presets:
        with ThreadPoolExecutor(jobs) as pool:
            runs = list(pool.map(lambda seed, preset=preset: run(preset, seed, flags), seeds))
        facts = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
        results = load() | {preset: {"facts": facts, "runs": runs}}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def load() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def table(results: dict[str, Any]) -> None:
    print(f"\n| {'preset':13} | {'steps':>9} | seeds | {'target':>7} | {'final':>16} | reached it after | seconds |")
    print(f"|{'-' * 15}|{'-' * 11}|{'-' * 7}|{'-' * 9}|{'-' * 18}|{'-' * 18}|{'-' * 9}|")
    for preset in TARGETS:
        if preset not in results:
            steps = YAML(typ="safe").load(ROOT / config_of(preset))["training_core"]["total_timesteps"]
            print(f"| {preset:13} | {steps:9} | {0:5} | {TARGETS[preset]:7} | {'not run':>16} | {'':16} | {'':7} |")
            continue
        runs = results[preset]["runs"]
        finals = [one["mean_return"][-1] for one in runs]
        spread = statistics.stdev(finals) if len(finals) > 1 else 0.0
        reached = sorted(filter(None, (first_at(one, TARGETS[preset]) for one in runs)))
        said = f"{statistics.median(reached):.0f} ({len(reached)} of {len(runs)})" if reached else "-"
        print(
            f"| {preset:13} | {runs[0]['timesteps'][-1]:9} | {len(runs):5} | {TARGETS[preset]:7} "
            f"| {statistics.mean(finals):7.1f} +- {spread:5.1f} | {said:>16} "
            f"| {statistics.median(one['seconds'] for one in runs):7.0f} |"
        )


def first_at(one: dict[str, Any], target: float) -> int | None:
    """Steps until the first evaluation at the target or above."""
    pairs = zip(one["timesteps"], one["mean_return"], strict=True)
    return next((timesteps for timesteps, mean_return in pairs if mean_return >= target), None)


def draw(results: dict[str, Any]) -> None:
    """One small curve per preset: the median of the seeds, the seeds themselves, and the target."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    presets = [preset for preset in TARGETS if preset in results]
    columns = min(4, len(presets))
    rows = -(-len(presets) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(presets) :]:
        axis.set_axis_off()
    for axis, preset in zip(axes.flat, presets, strict=False):
        runs = results[preset]["runs"]
        for one in runs:
            axis.plot(one["timesteps"], one["mean_return"], color="tab:blue", alpha=0.35, linewidth=0.8)
        steps = [statistics.median(column) for column in zip(*(one["timesteps"] for one in runs), strict=False)]
        middle = [statistics.median(column) for column in zip(*(one["mean_return"] for one in runs), strict=False)]
        axis.plot(steps, middle, color="tab:blue", linewidth=1.8)
        axis.axhline(TARGETS[preset], color="tab:gray", linestyle="--", linewidth=0.8)
        axis.set_title(f"{preset}, {len(runs)} seeds", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    figure.supxlabel("environment steps", fontsize=8)
    figure.supylabel("mean return of deterministic episodes", fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    print(f"\n{PICTURE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=sorted(TARGETS), default=list(QUICK))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags of ppo; the last option")
    parser.add_argument("--show", action="store_true", help="run nothing; table and picture of what there is")
    options = parser.parse_args()
    if not options.show:
        measure(options.presets, options.seeds, options.jobs, options.flags)
    results = load()
    table(results)
    if results:
        draw(results)


if __name__ == "__main__":
    main()
