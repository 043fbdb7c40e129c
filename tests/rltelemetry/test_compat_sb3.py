"""Stable-Baselines3: what its logger dumps is in MLflow, under the contract's categories."""

import csv
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed: pip install stable-baselines3")

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import CSVOutputFormat, HParam, Logger

import rltelemetry
from rltelemetry.compat.sb3 import TelemetryCallback, TelemetryWriter
from rltelemetry.testing import FakeMlflow


def quiet(server: FakeMlflow) -> dict[str, Any]:
    return {"tracking_uri": server.uri, "console": "off", "system_metrics": False, "exit_timeout_s": 20.0}


def values(server: FakeMlflow, run_id: str | None) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for point in server.points(str(run_id)):
        found.setdefault(point.key, []).append((point.step, point.value))
    return found


def ppo(**fields: Any) -> Any:
    return PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, seed=1, device="cpu", **fields)


def test_callback_puts_a_training_into_a_run_of_its_own(fake_mlflow: FakeMlflow) -> None:
    model = ppo(gamma=0.98)
    model.learn(256, callback=TelemetryCallback(**quiet(fake_mlflow), run_name="sb3"))
    (run,) = fake_mlflow.runs()
    assert (run.name, run.status, run.tags["rltelemetry.service"]) == ("sb3", "FINISHED", "ppo")
    assert run.params["gamma"] == "0.98"
    assert (run.params["algorithm"], run.params["environment"]) == ("PPO", "CartPole-v1")
    assert "0.2" in run.params["clip_range"]
    stored = values(fake_mlflow, run.run_id)
    assert {"trainer/value_loss", "actor/ep_rew_mean", "misc/fps", "misc/total_timesteps"} <= stored.keys()
    assert stored["misc/total_timesteps"] == [(step, float(step)) for step in (64, 128, 192, 256)]
    assert not any(isinstance(form, TelemetryWriter) for form in model.logger.output_formats)


def test_points_are_the_numbers_that_the_csv_writer_gets(fake_mlflow: FakeMlflow, tmp_path: Path) -> None:
    table = tmp_path / "progress.csv"
    with rltelemetry.configure(**quiet(fake_mlflow)) as telemetry:
        model = ppo()
        model.set_logger(Logger(None, [CSVOutputFormat(str(table)), TelemetryWriter()]))
        model.learn(256)
        model.logger.close()
        assert telemetry.wait_ready(10.0)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    stored = values(fake_mlflow, telemetry.run_id)
    for name, key in {"train/value_loss": "trainer/value_loss", "rollout/ep_rew_mean": "actor/ep_rew_mean"}.items():
        expected = [(int(row["time/total_timesteps"]), float(row[name])) for row in rows if row[name]]
        assert stored[key] == expected
        assert len(expected) >= 3


def test_evaluation_is_the_evaluators(fake_mlflow: FakeMlflow) -> None:
    with rltelemetry.configure(**quiet(fake_mlflow)) as telemetry:
        evaluation = EvalCallback(ppo().get_env(), n_eval_episodes=1, eval_freq=64, verbose=0, warn=False)
        ppo().learn(128, callback=[TelemetryCallback(), evaluation])
        assert telemetry.wait_ready(10.0)
    stored = values(fake_mlflow, telemetry.run_id)
    assert [step for step, _ in stored["evaluator/mean_reward"]] == [64, 128]
    assert fake_mlflow.run(str(telemetry.run_id)).params["algorithm"] == "PPO"


def test_off_policy_training_is_logged(fake_mlflow: FakeMlflow) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=20, buffer_size=1000, seed=1, device="cpu")
    model.learn(300, log_interval=2, callback=TelemetryCallback(**quiet(fake_mlflow)))
    (run,) = fake_mlflow.runs()
    assert {"trainer/loss", "actor/exploration_rate", "misc/episodes"} <= values(fake_mlflow, run.run_id).keys()


def test_second_training_of_a_model_goes_into_the_open_pipelines_run(fake_mlflow: FakeMlflow) -> None:
    with rltelemetry.configure(**quiet(fake_mlflow)) as telemetry:
        model, callback = ppo(), TelemetryCallback()
        model.learn(64, callback=callback)
        model.learn(64, callback=callback, reset_num_timesteps=False)
        assert telemetry.wait_ready(10.0)
    assert len(fake_mlflow.runs()) == 1
    assert values(fake_mlflow, telemetry.run_id)["misc/total_timesteps"] == [(64, 64.0), (128, 128.0)]


def test_excluded_values_stay_out_and_hyperparameters_are_parameters(fake_mlflow: FakeMlflow) -> None:
    with rltelemetry.configure(**quiet(fake_mlflow)) as telemetry:
        logger = Logger(None, [TelemetryWriter()])
        logger.record("train/loss", 0.5)
        logger.record("train/secret", 1.0, exclude="rltelemetry")
        logger.record("train/kept", 2.0, exclude=("stdout", "csv"))
        logger.record("hparams", HParam({"alpha": 0.5}, {"train/loss": 0.0}))
        logger.dump(3)
        assert telemetry.wait_ready(10.0)
    assert values(fake_mlflow, telemetry.run_id) == {"trainer/loss": [(3, 0.5)], "trainer/kept": [(3, 2.0)]}
    assert fake_mlflow.run(str(telemetry.run_id)).params == {"alpha": "0.5"}
