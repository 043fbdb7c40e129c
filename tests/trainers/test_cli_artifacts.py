"""What of a run becomes a file of its page, over several processes of one run."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trainers.cli import ppo

CONFIG = str(Path(__file__).parents[2] / "configs" / "ppo.yaml")
SHORT = [
    *("--config", CONFIG, "--no-mlflow", "--device", "cpu", "--environment.num-envs", "4"),
    *("--training-core.horizon", "16", "--evaluation.eval-interval", "0"),
    *("--checkpointing.save", "--checkpointing.interval", "1", "--checkpointing.keep", "2", "--logging.artifacts"),
]


def train(folder: Path, num_updates: int, *more: str) -> list[str]:
    """Train up to an update; returns what was said."""
    with capture_logs() as events:
        total = str(num_updates * 4 * 16)
        code = ppo([*SHORT, "--checkpointing.directory", str(folder), "--training-core.total-timesteps", total, *more])
    assert code == 0
    return [event["event"] for event in events]


def on_page(telemetry: Any) -> set[str]:
    return {name for name in telemetry.artifacts if name.endswith(".pt")}


def test_page_keeps_the_newest_checkpoints_over_several_processes(telemetry: Any, tmp_path: Path) -> None:
    train(tmp_path, 3)
    for num_updates in (5, 6):
        train(tmp_path, num_updates, "--resume", str(tmp_path))
        expected = {f"checkpoints/update-{update:08d}.pt" for update in (num_updates - 1, num_updates)}
        assert on_page(telemetry) == expected


@pytest.mark.parametrize(
    "content",
    [
        '{"training": {"points": [[64, 1.0, 1.0',
        "[]",
        "[" * 100_000,
        '{"training": []}',
        '{"training": {"points": [], "stride": 1}, "evaluations": {"points": [[0, NaN, 0, 0]], "stride": 1}}',
        '{"training": {"points": [[0, "many", 0, 0]], "stride": 1}, "evaluations": {"points": [], "stride": 1}}',
    ],
    ids=["truncated", "list", "deep", "foreign", "NaN", "text"],
)
def test_run_goes_on_without_a_curve_that_cannot_be_read(telemetry: Any, tmp_path: Path, content: str) -> None:
    train(tmp_path, 1)
    (tmp_path / "returns.json").write_text(content)
    said = train(tmp_path, 2, "--resume", str(tmp_path))
    complaints = [text for text in said if "returns.json" in text]
    assert len(complaints) == 1
    assert "is no curve of returns, or only a part of one; the picture begins anew" in complaints[0]
