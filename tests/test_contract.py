"""The contract of docs/telemetry.md, one test for each of its rules, by its own words."""

import math
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry.labels import Labels, parse_labels
from rltelemetry.testing import FakeMlflow


def exported(server: FakeMlflow, *events: dict[str, Any], **settings: Any) -> dict[str, list[tuple[int, float]]]:
    """Log events into a new run and read its points back: key -> [(step, value)]."""
    fields = {"tracking_uri": server.uri, "console": "off", "system_metrics": False, **settings}
    with rltelemetry.configure(**fields) as telemetry:
        for event in events:
            structlog.get_logger().info("train", **event)
    found: dict[str, list[tuple[int, float]]] = {}
    for point in server.points(str(telemetry.run_id)):
        found.setdefault(point.key, []).append((point.step, point.value))
    return found


@pytest.mark.parametrize(
    ("category", "prefix"),
    [
        ("TRAINER", "trainer/"),
        ("TRAIN", "trainer/"),
        ("ACTOR", "actor/"),
        ("ACT", "actor/"),
        ("EVALUATOR", "evaluator/"),
        ("EVAL", "evaluator/"),
        ("MISC", "misc/"),
        ("anything else", "misc/"),
        ("trainer", "trainer/"),
        (None, "misc/"),
    ],
)
def test_metrics_are_prefixed_from_the_category(fake_mlflow: FakeMlflow, category: str | None, prefix: str) -> None:
    assert exported(fake_mlflow, {"category": category, "critic_loss": 0.5, "timesteps": 100}) == {
        f"{prefix}critic_loss": [(100, 0.5)]
    }


def test_telemetry_is_an_alias_of_the_category_field(fake_mlflow: FakeMlflow) -> None:
    assert exported(fake_mlflow, {"telemetry": "ACTOR", "ret": 1.0, "step": 1}) == {"actor/ret": [(1, 1.0)]}


@pytest.mark.parametrize("field", ["timesteps", "policy_version", "step", "global_step", "update"])
def test_each_accepted_step_field_gives_the_step_and_is_no_metric(fake_mlflow: FakeMlflow, field: str) -> None:
    assert exported(fake_mlflow, {"loss": 0.5, field: 7}) == {"misc/loss": [(7, 0.5)]}


def test_first_step_field_of_the_order_wins(fake_mlflow: FakeMlflow) -> None:
    event = {"update": 1, "global_step": 2, "step": 3, "policy_version": 4, "timesteps": 5, "loss": 0.5}
    order = ["timesteps", "policy_version", "step", "global_step", "update"]
    for position, field in enumerate(order):
        present = {key: value for key, value in event.items() if key not in order[:position]}
        assert exported(fake_mlflow, present) == {"misc/loss": [(event[field], 0.5)]}


def test_event_without_a_step_is_no_metric(fake_mlflow: FakeMlflow) -> None:
    assert exported(fake_mlflow, {"loss": 0.5}) == {}


def test_only_numbers_are_exported(fake_mlflow: FakeMlflow) -> None:
    event = {"loss": 1, "flag": True, "text": "1.5", "none": None, "list": [1.0], "dict": {"a": 1.0}, "step": 1}
    assert exported(fake_mlflow, event) == {"misc/loss": [(1, 1.0)]}


def test_category_message_and_telemetry_are_never_metric_keys(fake_mlflow: FakeMlflow) -> None:
    event = {"category": 1.0, "telemetry": 2.0, "message": 3.0, "loss": 4.0, "step": 1}
    assert exported(fake_mlflow, event) == {"misc/loss": [(1, 4.0)]}


def test_not_a_number_is_exported_and_an_infinity_is_not(fake_mlflow: FakeMlflow) -> None:
    found = exported(fake_mlflow, {"nan": math.nan, "inf": math.inf, "good": 1.0, "step": 1})
    assert math.isnan(found.pop("misc/nan")[0][1])
    assert found == {"misc/good": [(1, 1.0)]}


def test_labels_are_for_the_console_and_keys_stay_raw(
    fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"category": "MISC", "global_grad_norm": 0.5, "steps_per_second": 9, "my_own_key": 1.0, "step": 1}
    labels = "global_grad_norm=Gradient,steps_per_second=SPS!"
    found = exported(fake_mlflow, event, metric_labels=labels, console="dashboard")
    assert set(found) == {"misc/global_grad_norm", "misc/steps_per_second", "misc/my_own_key"}
    assert "Gradient: 0.5 | SPS!: 9 | My Own Key: 1" in capsys.readouterr().err


def test_label_overrides_are_pairs_and_unknown_keys_are_title_cased() -> None:
    overrides, problems = parse_labels("global_grad_norm=Grad Norm,steps_per_second=SPS,broken")
    labels = Labels(overrides)
    assert (labels.label("global_grad_norm"), labels.label("some_new_key")) == ("Grad Norm", "Some New Key")
    assert len(problems) == 1
    assert "broken" in problems[0]


@pytest.mark.parametrize("name", ["RLTELEMETRY_METRIC_LABELS", "RUST_RL_METRIC_LABELS"])
def test_labels_come_from_the_environment(
    fake_mlflow: FakeMlflow, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "loss=The Loss")
    exported(fake_mlflow, {"loss": 0.5, "step": 1}, console="dashboard")
    assert "The Loss: 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["RLTELEMETRY_LOG", "RUST_LOG"])
def test_filter_variable_is_used_directly(fake_mlflow: FakeMlflow, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"warning,{__name__}=info")
    assert exported(fake_mlflow, {"loss": 0.5, "step": 1}, log_level="error") == {"misc/loss": [(1, 0.5)]}


def test_event_without_metrics_says_so(fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]) -> None:
    exported(fake_mlflow, {"category": "TRAINER"}, console="dashboard")
    assert "No metrics" in capsys.readouterr().err


def test_points_go_to_log_batch_and_spans_to_v1_traces(fake_mlflow: FakeMlflow) -> None:
    exported(fake_mlflow, {"loss": 0.5, "step": 1})
    paths = {request.path.partition("?")[0] for request in fake_mlflow.requests}
    assert {"/api/2.0/mlflow/runs/log-batch", "/v1/traces"} <= paths
    traces = next(request for request in fake_mlflow.requests if request.path == "/v1/traces")
    assert traces.headers["x-mlflow-experiment-id"] == "0"
    assert traces.headers["x-mlflow-run-id"]


def test_batch_leaves_when_fifty_points_wait(fake_mlflow: FakeMlflow) -> None:
    fields = {"tracking_uri": fake_mlflow.uri, "console": "off", "system_metrics": False, "flush_interval_s": 3600.0}
    with rltelemetry.configure(**fields) as telemetry:
        assert telemetry.wait_ready(10.0)
        for step in range(50):
            structlog.get_logger().info("train", loss=float(step), step=step)
        import time

        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline and len(fake_mlflow.points(str(telemetry.run_id))) < 50:
            time.sleep(0.02)
        assert len(fake_mlflow.points(str(telemetry.run_id))) == 50


def test_run_is_created_in_the_experiment_of_the_environment(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", fake_mlflow.create_experiment("mine"))
    exported(fake_mlflow, {"loss": 0.5, "step": 1})
    assert len(fake_mlflow.runs("1")) == 1
