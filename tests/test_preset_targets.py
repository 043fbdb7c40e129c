"""What a preset says that it reaches, and has reached, is what `benchmarks/learning.py` judges it by, and has kept."""

import re
import statistics
from pathlib import Path

import pytest
from learning import TARGETS, Runs, digest_of, load

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))

MEASURED_BEFORE = {"spo_hopper": "8167f8db"}
"""Presets whose kept runs are of the values before, and their digests; docs/spo.md says what has changed."""

each_preset = pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)


def names_of(path: Path) -> tuple[str, str]:
    """Algorithm and task."""
    algorithm, _, task = path.stem.partition("_")
    return algorithm, task or "cartpole"


def kept_runs(path: Path) -> Runs:
    algorithm, task = names_of(path)
    runs: Runs = load(algorithm).get(task, {"runs": []})["runs"]
    return runs


def reached(path: Path) -> str:
    """What the kept runs of a preset came to: their last evaluations."""
    runs = kept_runs(path)
    if not runs:
        return "# Not run yet."
    finals = [run["mean_return"][-1] for run in runs]
    spread = f" +- {number(statistics.stdev(finals))}" if len(finals) > 1 else ""
    return f"# Reached: {number(statistics.mean(finals))}{spread} with {len(runs)} seed{'s' * (len(runs) > 1)}"


def number(value: float) -> str:
    """Four digits, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@each_preset
def test_target_of_a_preset_is_that_of_the_benchmark(path: Path) -> None:
    said = re.search(r"^# .*To reach: a mean return of (-?\d+(?:\.\d+)?)", path.read_text(), re.MULTILINE)
    assert said is not None, "a preset says what it is to reach"
    assert float(said[1]) == TARGETS[names_of(path)[1]]


@each_preset
def test_what_a_preset_says_it_has_reached_was_measured(path: Path) -> None:
    [said] = [line for line in path.read_text().splitlines() if line.startswith(("# Reached: ", "# Not run yet."))]
    assert said.startswith(reached(path))


@each_preset
def test_runs_that_are_kept_were_made_with_the_preset_as_it_is(path: Path) -> None:
    algorithm, task = names_of(path)
    variants = [found["runs"] for name, found in load(algorithm).items() if name.split()[0] == task]
    assert {run["preset"] for runs in variants for run in runs} <= {MEASURED_BEFORE.get(path.stem, digest_of(path))}
