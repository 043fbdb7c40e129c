"""The scripts of docs/examples, run as a reader runs them; their points are read back from a real MLflow server."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rltelemetry.testing import MlflowServer, RunView

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
LIMIT_S = 240


def run_example(server: MlflowServer, directory: Path, script: str, *arguments: str) -> RunView:
    """Run a script in a directory of its own; return the one run that it made."""
    experiment_id = server.create_experiment(f"{script} {directory}")
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_EXPERIMENT_ID": experiment_id,
        "RLTELEMETRY_EXIT_TIMEOUT_S": "60",
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=environ, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run,) = server.runs(experiment_id)
    assert run.status == "FINISHED"
    return run


def needs(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def steps(server: MlflowServer, run: RunView, key: str) -> list[int]:
    return [point.step for point in server.points(run.run_id, key)]


def test_cleanrl_script(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    needs("torch", "gymnasium")
    run = run_example(mlflow_server, tmp_path, "cleanrl_ppo.py", "--total-timesteps", "2048")
    assert run.name.startswith("CartPole-v1__cleanrl_ppo__1__")
    assert (run.params["gamma"], run.params["total_timesteps"]) == ("0.99", "2048")
    updates = [512, 1024, 1536, 2048]
    names = ("value_loss", "policy_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "learning_rate")
    for key in (*(f"trainer/{name}" for name in names), "misc/SPS"):
        assert steps(mlflow_server, run, key) == updates, key
    rate = [point.value for point in mlflow_server.points(run.run_id, "trainer/learning_rate")]
    assert rate == [1e-3, 7.5e-4, 5e-4, 2.5e-4]
    returns = mlflow_server.points(run.run_id, "actor/episodic_return")
    lengths = mlflow_server.points(run.run_id, "actor/episodic_length")
    assert len(returns) > 10
    assert [(point.step, point.value) for point in returns] == [(point.step, point.value) for point in lengths]


def test_sb3_script(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    needs("stable_baselines3")
    run = run_example(mlflow_server, tmp_path, "sb3_ppo.py", "1024")
    assert run.name == "sb3 CartPole-v1"
    assert (run.params["algorithm"], run.params["n_steps"]) == ("PPO", "256")
    assert steps(mlflow_server, run, "misc/fps") == [256, 512, 768, 1024]
    assert steps(mlflow_server, run, "trainer/value_loss") == [512, 768, 1024]
    assert len(steps(mlflow_server, run, "actor/ep_rew_mean")) == 4


def test_vector_environment_script(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    needs("gymnasium")
    run = run_example(mlflow_server, tmp_path, "vector_env.py", "4000")
    episodes = mlflow_server.points(run.run_id, "actor/episodes")
    assert len(episodes) >= 4
    assert [point.value for point in episodes] == sorted(point.value for point in episodes)
    assert steps(mlflow_server, run, "actor/mean_return") == [point.step for point in episodes]


def test_logging_script(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    run = run_example(mlflow_server, tmp_path, "stdlib_logging.py")
    losses = mlflow_server.points(run.run_id, "trainer/critic_loss")
    assert [(point.step, point.value) for point in losses] == [(2048 * n, 1 / (1 + n)) for n in range(10)]


def test_every_script_is_tested() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {"cleanrl_ppo.py", "sb3_ppo.py", "stdlib_logging.py", "vector_env.py"}
