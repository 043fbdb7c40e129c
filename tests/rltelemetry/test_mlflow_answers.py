"""What MLflow's answers say: right for its own, and nothing, in place of an exception, for any other."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.plan import OWNER_TAG, REASON_TAG
from rltelemetry.sinks.mlflow import RunFacts, read_points, read_run, read_runs, read_trace_ids, run_page, trace_name
from rltelemetry.types import MetricPoint

METRIC = {"key": "trainer/loss", "value": 0.5, "timestamp": 7, "step": 3}
RUN = {
    "info": {
        "run_id": "r",
        "experiment_id": "4",
        "run_name": "brave",
        "status": "RUNNING",
        "lifecycle_stage": "deleted",
        "artifact_uri": "mlflow-artifacts:/4/r/artifacts",
    },
    "data": {
        "metrics": [METRIC],
        "tags": [{"key": OWNER_TAG, "value": "me"}, {"key": "a", "value": "b"}, {"key": REASON_TAG, "value": "Ctrl-C"}],
    },
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["run", "runs", "info", "data", "metrics", "tags", "traces", "key", "value", "run_id"]),
            inner,
        )
    ),
    max_leaves=12,
)


def test_run_is_read_whole() -> None:
    expected = RunFacts(
        run_id="r",
        experiment_id="4",
        artifact_uri="mlflow-artifacts:/4/r/artifacts",
        status="RUNNING",
        owner="me",
        reason="Ctrl-C",
        name="brave",
        is_deleted=True,
        latest=[MetricPoint("trainer/loss", 0.5, 3, 7)],
    )
    assert read_run({"run": RUN}) == expected
    assert read_runs({"runs": [RUN, {"info": {}}, RUN]}) == [expected, expected]


@pytest.mark.parametrize(
    ("uri", "root"), [("mlflow-artifacts:/4/r/artifacts", "4/r/artifacts"), ("s3://bucket/4", None), ("", None)]
)
def test_artifacts_go_through_the_server_only_where_it_keeps_them(uri: str, root: str | None) -> None:
    facts = read_run({"run": {"info": {**RUN["info"], "artifact_uri": uri}}})
    assert facts is not None
    assert facts.artifact_root == root


def test_points_are_read_as_they_were_sent_and_others_are_passed_over() -> None:
    nan = {**METRIC, "value": "NaN"}
    no_step = {key: value for key, value in METRIC.items() if key != "step"}
    points = read_points({"metrics": [METRIC, nan, {"key": "x"}, "no", {**METRIC, "value": "much"}, no_step]})
    assert [point.step for point in points] == [3, 3, 0]
    assert math.isnan(points[1].value)


def test_traces_and_pages_have_mlflows_names() -> None:
    assert trace_name(bytes(range(16))) == "tr-000102030405060708090a0b0c0d0e0f"
    assert read_trace_ids({"traces": [{"trace_id": "tr-1"}, {"trace_id": "tr-2"}, None]}) == {"tr-1", "tr-2"}
    assert run_page("http://host/prefix", "4", "r") == "http://host/prefix/#/experiments/4/runs/r"


@given(st.dictionaries(st.sampled_from(["run", "runs", "metrics", "traces"]), anything))
def test_no_answer_raises(answer: dict[str, Any]) -> None:
    read_run(answer)
    read_runs(answer)
    read_points(answer)
    read_trace_ids(answer)
