"""What of a run becomes a file of its page, over several processes of one run."""

from pathlib import Path
from typing import Any

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
