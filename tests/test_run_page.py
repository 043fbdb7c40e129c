"""What a training leaves on its page of a real MLflow beside the numbers: description, files, and why it failed."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import rltelemetry
from rltelemetry.testing import MlflowServer, RunView

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(300)]

UPDATES = 6
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "ppo.yaml"
FLAGS = (
    *("--logging.artifacts", "--checkpointing.interval", "2", "--checkpointing.keep", "2"),
    *("--evaluation.eval-interval", "2", "--evaluation.num-eval-episodes", "4", "--evaluation.num-envs", "4"),
)


def ppo(server: MlflowServer, directory: Path, experiment: str, *flags: str, code: int = 0) -> RunView:
    environ = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_ID": experiment}
    environ |= {"XDG_STATE_HOME": str(directory / "state"), "OMP_NUM_THREADS": "1", "RLTELEMETRY_EXIT_TIMEOUT_S": "60"}
    ended = subprocess.run(
        [sys.executable, "-m", "trainers", "ppo", *flags],
        env=environ, cwd=directory, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout + ended.stderr
    (run,) = server.runs(experiment)
    return run


def files(server: MlflowServer, run: RunView, folder: str = "") -> set[str]:
    query = f"run_id={run.run_id}" + (f"&path={folder}" if folder else "")
    listed: Any = server.ask("GET", f"/api/2.0/mlflow/artifacts/list?{query}").json
    return {entry["path"] for entry in listed.get("files", [])}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("envpool")
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def experiment(mlflow_server: MlflowServer) -> str:
    return mlflow_server.create_experiment(f"page {time.time_ns()}")


@pytest.fixture(scope="module")
def page(mlflow_server: MlflowServer, experiment: str, desk: Path) -> RunView:
    """The page of a short real training."""
    total = ("--training-core.total-timesteps", str(UPDATES * 1024))
    return ppo(mlflow_server, desk, experiment, "--config", str(CONFIG), *FLAGS, *total)


def test_description_tells_the_task_and_how_to_go_on(page: RunView, desk: Path) -> None:
    note = page.tags["mlflow.note.content"]
    assert note.startswith("**PPO** on **CartPole-v1**, seed 1: 6,144 timesteps in 6 updates")
    (folder,) = (desk / "checkpoints").iterdir()
    assert f"\nppo --resume {folder}\n" in note
    assert "rltelemetry.reason" not in page.tags


def test_settings_are_a_file_that_the_command_takes(page: RunView, mlflow_server: MlflowServer, desk: Path) -> None:
    from trainers.config import PpoConfig, load

    (desk / "config.yaml").write_bytes(mlflow_server.artifact(page.run_id, "config.yaml") or b"")
    config = load(desk / "config.yaml", PpoConfig)
    assert config.num_updates == UPDATES
    assert (config.checkpointing.interval, config.logging) == (2, PpoConfig().logging)


def test_picture_shows_the_final_evaluation(page: RunView, mlflow_server: MlflowServer) -> None:
    picture = ElementTree.fromstring(mlflow_server.artifact(page.run_id, "returns.svg") or b"")
    texts = [str(element.text) for element in picture.iter() if element.tag.endswith("text")]
    final = page.metrics["evaluator/mean_return"]
    assert "PPO on CartPole-v1" in texts[0]
    assert f"last evaluation: mean return {final.value:.4g} (" in texts[1]
    assert texts[1].endswith(f"after {final.step:,} timesteps")


def test_newest_checkpoints_are_there_whole_and_no_others(
    page: RunView, mlflow_server: MlflowServer, desk: Path, tmp_path: Path
) -> None:
    from trainers.checkpoint import newest_good

    names = {f"update-0000000{update}{end}" for update in (4, 6) for end in (".pt", ".sha256")}
    assert files(mlflow_server, page, "checkpoints") == {f"checkpoints/{name}" for name in names}
    for name in names:
        (tmp_path / name).write_bytes(mlflow_server.artifact(page.run_id, f"checkpoints/{name}") or b"")
    (folder,) = (desk / "checkpoints").iterdir()
    here, there = newest_good(folder, pytest.fail), newest_good(tmp_path, pytest.fail)
    assert (there.update, there.content) == (UPDATES, here.content)


def test_resumed_run_goes_on_with_picture_and_checkpoints(
    page: RunView, mlflow_server: MlflowServer, desk: Path, experiment: str
) -> None:
    (folder,) = (desk / "checkpoints").iterdir()
    total = ("--training-core.total-timesteps", str(8 * 1024))
    run = ppo(mlflow_server, desk, experiment, "--resume", str(folder), *FLAGS, *total)
    assert run.run_id == page.run_id
    assert "checkpoints/update-00000008.pt" in files(mlflow_server, run, "checkpoints")
    picture = ElementTree.fromstring(mlflow_server.artifact(run.run_id, "returns.svg") or b"")
    dots = [element for element in picture.iter() if element.tag.endswith("circle")]
    assert len(dots) == 4, "evaluations of updates 2, 4, 6 and 8"


def test_nothing_is_uploaded_where_artifacts_are_off(mlflow_server: MlflowServer, desk: Path, tmp_path: Path) -> None:
    experiment = mlflow_server.create_experiment(f"no artifacts {time.time_ns()}")
    total = ("--training-core.total-timesteps", "4096")
    run = ppo(mlflow_server, tmp_path, experiment, "--config", str(CONFIG), *FLAGS[1:], *total)
    assert files(mlflow_server, run) == set()
    assert "mlflow.note.content" in run.tags


def test_failed_run_tells_why_until_it_is_resumed(mlflow_server: MlflowServer) -> None:
    settings: dict[str, Any] = {"tracking_uri": mlflow_server.uri, "console": "off", "exit_timeout_s": 60.0}
    telemetry = rltelemetry.configure(**settings)
    with pytest.raises(RuntimeError), telemetry:
        raise RuntimeError("the reward is nan\n at http://ada:s3cret@host")
    run_id = str(telemetry.run_id)
    failed = mlflow_server.run(run_id)
    reason = r"RuntimeError: the reward is nan\n at http://***@host"
    assert (failed.status, failed.tags["rltelemetry.reason"]) == ("FAILED", reason)
    for _ in range(2):
        with rltelemetry.configure(**settings, run_id=run_id) as resumed:
            resumed.wait_ready(60.0)
    finished = mlflow_server.run(run_id)
    assert (finished.status, finished.tags["rltelemetry.reason"]) == ("FINISHED", f"resumed after {reason}")
