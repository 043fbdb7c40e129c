"""The whole way on real parts: a real `mlflow server`, real environments, the real `ppo` command."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry import handoff
from rltelemetry.testing import RealMlflow
from rltelemetry.types import MetricPoint

pytestmark = pytest.mark.mlflow

ROOT = Path(__file__).resolve().parent.parent
STEP_FIELDS = ("timesteps", "policy_version", "step", "global_step", "update")
UPDATES = 6


def test_every_point_logged_is_there_with_its_value_step_and_time_and_none_more(
    mlflow_server: RealMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_ms = 1_700_000_000_000
    stamps = itertools.count(start_ms)
    monkeypatch.setattr(handoff, "time_ns", lambda: next(stamps) * 1_000_000)
    numbers = [0.1, -3, 1e-300, 1.7e308, 0.0, -0.0, 2**60, float("nan"), 7]
    expected = []
    with rltelemetry.configure(tracking_uri=mlflow_server.uri, console="off", system_metrics=False) as telemetry:
        log = structlog.get_logger()
        for index, (category, number) in enumerate(itertools.product(("TRAINER", "ACTOR", "EVAL", "x"), numbers)):
            log.info("e", category=category, value=number, timesteps=index, inf=float("inf"), note="n", flag=True)
            prefix = {"TRAINER": "trainer", "ACTOR": "actor", "EVAL": "evaluator"}.get(category, "misc")
            expected.append((f"{prefix}/value", repr(float(number)), index, start_ms + index))
        assert telemetry.wait_ready(30.0)
        assert telemetry.flush(30.0)
    stored = [
        (key, repr(value), step, stamp) for key, value, step, stamp in mlflow_server.points(str(telemetry.run_id))
    ]
    zeros = {"-0.0": "0.0"}  # the server's database does not tell them apart
    assert sorted(stored) == sorted((key, zeros.get(value, value), *rest) for key, value, *rest in expected)


def test_trace_per_update_is_found_by_its_run_with_children_and_events(mlflow_server: RealMlflow) -> None:
    with rltelemetry.configure(tracking_uri=mlflow_server.uri, console="off", system_metrics=False) as telemetry:
        log = structlog.get_logger()
        for update in range(3):
            with telemetry.span("update", update=update):
                with telemetry.span("rollout"):
                    log.info("rollout", category="ACTOR", mean_return=float(update), timesteps=update)
                with telemetry.span("optimise"):
                    log.info("train", category="TRAINER", critic_loss=0.5, timesteps=update)
        log.info("outside any span", seed=1)
        assert telemetry.wait_ready(30.0)
        assert telemetry.flush(30.0)
    traces = mlflow_server.traces(telemetry.run_id)
    updates = sorted((trace for trace in traces if trace.root and trace.root.name == "update"), key=_update_of)
    assert [_update_of(trace) for trace in updates] == [0, 1, 2]
    assert [trace.spans[0].name for trace in traces if trace not in updates] == ["outside any span"]
    for update, trace in enumerate(updates):
        assert trace.state == "OK"
        assert sorted(span.name for span in trace.spans) == ["optimise", "rollout", "update"]
        events = {span.name: [event.name for event in span.events] for span in trace.spans}
        assert events == {"update": [], "rollout": ["rollout"], "optimise": ["train"]}
        assert json.loads(trace.response_preview or "{}")["actor/mean_return"] == update


def _update_of(trace: Any) -> int:
    return int(json.loads(trace.request_preview)["update"])


@pytest.fixture(scope="module")
def training(mlflow_server: RealMlflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short real training of `ppo`: its exit code, output lines and run."""
    pytest.importorskip("torch")
    pytest.importorskip("envpool")
    state = tmp_path_factory.mktemp("state")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "OTEL_", "RLTEL"))}
    environ |= {"MLFLOW_TRACKING_URI": mlflow_server.uri, "XDG_STATE_HOME": str(state), "OMP_NUM_THREADS": "1"}
    environ["RLTELEMETRY_EXIT_TIMEOUT_S"] = "30"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "trainers", "ppo", "--config", str(ROOT / "configs" / "ppo.yaml")),
            *("--training-core.total-timesteps", str(UPDATES * 1024), "--evaluation.eval-interval", "2"),
            *("--evaluation.num-eval-episodes", "4", "--evaluation.num-envs", "4"),
            *("--logging.trace-interval-s", "0", "--run-name", "end-to-end", "--checkpointing.no-save"),
        ],
        env=environ, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run,) = mlflow_server.runs(filter_string="attributes.run_name = 'end-to-end'")
    events = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    return {"events": events, "run": run, "stdout": ended.stdout, "stderr": ended.stderr}


def expected_points(events: list[dict[str, Any]]) -> Counter[MetricPoint]:
    """What the console lines of a training say must be in MLflow: an independent reading of the contract."""
    points: Counter[MetricPoint] = Counter()
    for event in events:
        step = next((event[field] for field in STEP_FIELDS if field in event), None)
        if step is None or event["logger"] == "rltelemetry":
            continue
        stamp_ms = round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)
        for key, value in event.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and key not in STEP_FIELDS and math.isfinite(value):
                points[MetricPoint(f"{event['category'].lower()}/{key}", float(value), int(step), stamp_ms)] += 1
    return points


def test_training_leaves_exactly_the_points_that_it_showed(training: dict[str, Any], mlflow_server: RealMlflow) -> None:
    stored = Counter(
        point for point in mlflow_server.points(training["run"].run_id) if not point.key.startswith("system/")
    )
    assert stored == expected_points(training["events"])
    assert {point.key.partition("/")[0] for point in stored} == {"trainer", "actor", "evaluator", "misc"}


def test_training_fills_the_run_page(training: dict[str, Any]) -> None:
    run = training["run"]
    assert run.status == "FINISHED"
    assert run.params["environment.task"] == "CartPole-v1"
    assert run.params["training_core.gamma"] == "0.98"
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.git.commit", "algorithm", "task"} <= set(run.tags)


def test_training_leaves_a_trace_per_update_with_its_phases(
    training: dict[str, Any], mlflow_server: RealMlflow
) -> None:
    roots = [
        trace for trace in mlflow_server.traces(training["run"].run_id) if trace.root and trace.root.name == "update"
    ]
    assert len(roots) == UPDATES
    names = [{span.name for span in trace.spans} for trace in roots]
    assert all({"update", "rollout", "optimise"} <= each for each in names)
    assert sum("evaluate" in each for each in names) == UPDATES // 2
    assert all(any(event.name == "train" for span in trace.spans for event in span.events) for trace in roots)


def test_training_says_where_mlflow_is_and_where_the_run_is(
    training: dict[str, Any], mlflow_server: RealMlflow
) -> None:
    said = training["stdout"] + training["stderr"]
    assert f"MLflow: {mlflow_server.uri}" in said
    assert f"{mlflow_server.uri}/#/experiments/0/runs/{training['run'].run_id}" in said
