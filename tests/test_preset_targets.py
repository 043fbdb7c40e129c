"""What a preset says that it reaches is what `benchmarks/learning.py` judges it by."""

import ast
import hashlib
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))


def targets() -> dict[str, float]:
    """The table of the benchmark, by task, without importing what it runs with."""
    tree = ast.parse((ROOT / "benchmarks" / "learning.py").read_text())
    tables = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }
    found: dict[str, float] = ast.literal_eval(tables["TARGETS"])
    return found


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_target_of_a_preset_is_that_of_the_benchmark(path: Path) -> None:
    _, _, task = path.stem.partition("_")
    said = re.search(r"^# .*To reach: a mean return of (-?\d+(?:\.\d+)?)", path.read_text(), re.MULTILINE)
    assert said is not None, "a preset says what it is to reach"
    assert float(said[1]) == targets()[task or "cartpole"]


def kept_runs(path: Path) -> list[dict[str, Any]]:
    algorithm, _, task = path.stem.partition("_")
    kept = json.loads((ROOT / "docs" / f"learning_{algorithm}.json").read_text())
    runs: list[dict[str, Any]] = kept.get(task or "cartpole", {"runs": []})["runs"]
    return runs


def reached(path: Path) -> str:
    """What the kept runs of a preset came to: their last evaluations."""
    runs = kept_runs(path)
    if not runs:
        return "# Not run yet."
    finals = [run["mean_return"][-1] for run in runs]
    spread = f" +- {statistics.stdev(finals):.4g}" if len(finals) > 1 else ""
    return f"# Reached: {statistics.mean(finals):.4g}{spread} with {len(runs)} seed{'s' * (len(runs) > 1)}"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_what_a_preset_says_it_has_reached_was_measured(path: Path) -> None:
    [said] = [line for line in path.read_text().splitlines() if line.startswith(("# Reached: ", "# Not run yet."))]
    assert said.startswith(reached(path))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_runs_that_are_kept_were_made_with_the_preset_as_it_is(path: Path) -> None:
    digest = hashlib.sha256(json.dumps(YAML(typ="safe").load(path), sort_keys=True).encode()).hexdigest()[:8]
    assert {run["preset"] for run in kept_runs(path)} <= {digest}
