"""What a preset says that it reaches is what `benchmarks/learning.py` judges it by."""

import ast
import re
from pathlib import Path

import pytest

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
