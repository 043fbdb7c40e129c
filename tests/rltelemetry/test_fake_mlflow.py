"""What the sink relies on in MLflow, held against the fake and a real server alike, so that the fake cannot drift."""

import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rltelemetry.testing import Answer, MlflowServer, send
from rltelemetry.types import MetricPoint

API = "/api/2.0/mlflow"
LOG_BATCH = f"{API}/runs/log-batch"
NOBODY = "0" * 32
START_NS = 1_700_000_000_000_000_000
TRACE_HEADERS = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}


class Bench:
    """A server and a run in it."""

    def __init__(self, server: MlflowServer) -> None:
        self.server = server
        self.run_id = server.create_run("bench")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return send(self.server.uri, "GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return send(self.server.uri, "POST", path, body, headers)

    def log(self, *metrics: dict[str, Any], **rest: Any) -> Answer:
        return self.post(LOG_BATCH, {"run_id": self.run_id, "metrics": list(metrics), **rest})

    def log_text(self, metrics: str) -> Answer:
        """Send metrics as JSON text, so that it can be wrong."""
        return self.post(LOG_BATCH, f'{{"run_id": "{self.run_id}", "metrics": [{metrics}]}}')

    def points(self, key: str | None = None) -> list[MetricPoint]:
        return self.server.points(self.run_id, key)

    def export(self, *spans: Span, run_id: str | None = None) -> Answer:
        linked = {"x-mlflow-run-id": run_id} if run_id else {}
        return self.post("/v1/traces", encoded(spans), {**TRACE_HEADERS, **linked})

    def search_traces(self, text: str) -> Answer:
        where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]
        body = {"locations": where, "max_results": 500, "filter": text}
        return self.post("/api/3.0/mlflow/traces/search", body)

    def num_linked(self) -> int:
        return len(self.search_traces(f"run_id = '{self.run_id}'").json.get("traces", []))


@pytest.fixture
def bench(any_mlflow: MlflowServer) -> Bench:
    return Bench(any_mlflow)


def metric(key: str, value: Any = 1.0, step: Any = 3, timestamp: Any = 7) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": timestamp, "step": step}


def span(
    name: str,
    trace_id: bytes,
    parent: bytes = b"",
    seconds: float = 1.0,
    attributes: Mapping[str, str | float] | None = None,
    span_id: bytes | None = None,
) -> Span:
    made = Span(
        name=name,
        trace_id=trace_id,
        span_id=span_id or os.urandom(8),
        parent_span_id=parent,
        start_time_unix_nano=START_NS,
        end_time_unix_nano=START_NS + int(seconds * 1e9),
    )
    set_attributes(made, attributes or {})
    return made


def set_attributes(holder: Any, attributes: Mapping[str, str | float]) -> None:
    for key, value in attributes.items():
        pair = holder.attributes.add(key=key)
        if isinstance(value, str):
            pair.value.string_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.double_value = value


def encoded(spans: Sequence[Span]) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "bench"
    group.scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


# Metrics


def test_point_is_stored_as_sent(bench: Bench) -> None:
    assert (bench.log(metric("trainer/loss", 0.1, 2**40, 1_700_000_000_123)).status) == 200
    assert bench.points() == [MetricPoint("trainer/loss", 0.1, 2**40, 1_700_000_000_123)]


def test_repeated_batch_is_stored_once(bench: Bench) -> None:
    for _ in range(3):
        assert bench.log(metric("a", 1.0), metric("a", 2.0), metric("n", "NaN")).json == {}
    assert [point.value for point in bench.points("a")] == [1.0, 2.0]
    assert len(bench.points("n")) == 1


@pytest.mark.parametrize("other", [{"value": 2.0}, {"step": 4}, {"timestamp": 8}])
def test_point_that_differs_in_anything_is_another_point(bench: Bench, other: dict[str, Any]) -> None:
    bench.log(metric("a"))
    bench.log({**metric("a"), **other})
    assert len(bench.points("a")) == 2


def test_latest_is_the_greatest_step_then_timestamp_then_value(bench: Bench) -> None:
    bench.log(metric("a", 1.0, step=5, timestamp=1), metric("a", 2.0, step=5, timestamp=2))
    bench.log(metric("a", 3.0, step=4, timestamp=9), metric("a", 1.5, step=5, timestamp=2))
    assert bench.server.run(bench.run_id).metrics["a"] == MetricPoint("a", 2.0, 5, 2)


def test_nan_goes_as_text_and_infinity_becomes_the_greatest_float(bench: Bench) -> None:
    assert bench.log(metric("n", "NaN"), metric("i", "Infinity"), metric("j", "-Infinity")).status == 200
    assert math.isnan(bench.points("n")[0].value)
    assert bench.points("i")[0].value == -bench.points("j")[0].value > 1.79e308


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", '"nan"', '"abc"', "[1]", '{"a": 1}'])
def test_bad_value_becomes_a_zero_and_loses_what_follows_under_a_200(bench: Bench, value: str) -> None:
    before, after = json.dumps(metric("before")), json.dumps(metric("after"))
    bad = f'{{"key": "bad", "value": {value}, "timestamp": 7, "step": 3}}'
    answer = bench.log_text(f"{before}, {bad}, {after}")
    assert (answer.status, answer.json) == (200, {})
    assert bench.points() == [MetricPoint("bad", 0.0, 0, 0), MetricPoint("before", 1.0, 3, 7)]


@pytest.mark.parametrize("step", ["1.5", "true", "9223372036854775808", '"abc"'])
def test_bad_step_becomes_zero_and_loses_what_follows(bench: Bench, step: str) -> None:
    bench.log_text(f'{{"key": "bad", "value": 5, "timestamp": 7, "step": {step}}}, {json.dumps(metric("after"))}')
    assert bench.points() == [MetricPoint("bad", 5.0, 0, 7)]


@pytest.mark.parametrize("timestamp", ["7.5", "9223372036854775808"])
def test_bad_timestamp_becomes_zero_with_the_step_behind_it(bench: Bench, timestamp: str) -> None:
    bench.log_text(f'{{"key": "bad", "value": 5, "timestamp": {timestamp}, "step": 3}}, {json.dumps(metric("after"))}')
    assert bench.points() == [MetricPoint("bad", 5.0, 0, 0)]


def test_bad_value_before_the_run_id_makes_the_request_invalid(bench: Bench) -> None:
    answer = bench.post(LOG_BATCH, f'{{"metrics": [{{"key": "a", "value": NaN}}], "run_id": "{bench.run_id}"}}')
    assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(("sent", "stored"), [("1.0", 1), ('"7"', 7), ("null", 0), ("-3", -3)])
def test_step_of_another_spelling_is_taken(bench: Bench, sent: str, stored: int) -> None:
    bench.log_text(f'{{"key": "a", "value": 1, "timestamp": 7, "step": {sent}}}')
    assert bench.points() == [MetricPoint("a", 1.0, stored, 7)]


@pytest.mark.parametrize(
    "key", ["a@b", "50%", "a,b", "f(x)", "/a", "a/", "a//b", "a/./b", ".", "..", "", "a\tb", "k" * 251]
)
def test_one_bad_key_refuses_the_whole_batch(bench: Bench, key: str) -> None:
    answer = bench.log(metric("good"), metric(key))
    assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert bench.points() == []


@pytest.mark.parametrize("key", ["a b", "é", "日本", "a.b-c_d:e", "k" * 250])
def test_key_of_word_characters_is_taken(bench: Bench, key: str) -> None:
    assert bench.log(metric(key)).status == 200
    assert [point.key for point in bench.points()] == [key]


@pytest.mark.parametrize(
    "wrong",
    [metric("a", None), metric("a", timestamp=-1), metric("a", timestamp=None), {"value": 1, "timestamp": 1}],
)
def test_metric_without_a_needed_field_is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    assert bench.log(metric("good"), wrong).status == 400
    assert bench.points() == []


def test_1000_metrics_pass_and_1001_do_not(bench: Bench) -> None:
    assert bench.log(*(metric("a", step=step) for step in range(1001))).status == 400
    assert bench.points() == []
    assert bench.log(*(metric("a", step=step) for step in range(1000))).status == 200
    assert len(bench.points("a")) == 1000


@pytest.mark.parametrize("kind", ["params", "tags"])
def test_100_params_or_tags_pass_and_101_do_not(bench: Bench, kind: str) -> None:
    pairs = [{"key": f"k{index}", "value": "v"} for index in range(101)]
    assert bench.log(**{kind: pairs}).status == 400
    assert bench.log(**{kind: pairs[:100]}).status == 200


def test_history_comes_in_pages(bench: Bench) -> None:
    bench.log(*(metric("a", float(step), step) for step in range(5)))
    path = f"{API}/metrics/get-history?run_id={bench.run_id}&metric_key=a&max_results=2"
    pages, token = [], ""
    while token is not None:
        page = bench.get(f"{path}&page_token={token}" if token else path).json
        pages.append([found["step"] for found in page["metrics"]])
        token = page.get("next_page_token")
    assert pages == [[0, 1], [2, 3], [4]]


def test_history_of_an_unknown_key_is_empty(bench: Bench) -> None:
    assert bench.get(f"{API}/metrics/get-history?run_id={bench.run_id}&metric_key=none").json == {}


def test_log_metric_stores_one_point(bench: Bench) -> None:
    assert bench.post(f"{API}/runs/log-metric", {"run_id": bench.run_id, **metric("a")}).status == 200
    assert bench.points() == [MetricPoint("a", 1.0, 3, 7)]


# Requests that are no batch


@pytest.mark.parametrize("body", ['{"run_id": ', "[1]", gzip.compress(b"{}", mtime=0)])
def test_body_that_breaks_the_server_gets_a_500_page(bench: Bench, body: Any) -> None:
    answer = bench.post(LOG_BATCH, body, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (500, "text/html")


def test_number_beyond_a_float_gets_a_500_page(bench: Bench) -> None:
    assert bench.log_text(f'{{"key": "a", "value": 1{"0" * 400}, "timestamp": 7}}').status == 500
    assert bench.points() == []


def test_request_without_content_type_is_refused(bench: Bench) -> None:
    assert bench.post(LOG_BATCH, json.dumps({"run_id": bench.run_id}).encode()).status == 400


def test_unknown_fields_are_ignored(bench: Bench) -> None:
    assert bench.log(metric("a"), surprise=1).status == 200


# Runs


@pytest.mark.parametrize("run_id", [NOBODY, "nobody"])
def test_unknown_run_is_a_json_404(bench: Bench, run_id: str) -> None:
    answer = bench.post(LOG_BATCH, {"run_id": run_id, "metrics": [metric("a")]})
    assert (answer.status, answer.json["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert bench.get(f"{API}/runs/get?run_id={run_id}").status == 404
    assert bench.post(f"{API}/runs/update", {"run_id": run_id, "status": "FINISHED"}).status == 404


def test_unknown_route_is_a_404_page(bench: Bench) -> None:
    for path in ("/api/2.0/mlflow/nope", "/prefix/api/3.0/mlflow/server-info", "/v1/traces"):
        answer = bench.get(path)
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (404, "text/html")


def test_wrong_method_is_a_405(bench: Bench) -> None:
    assert bench.get(LOG_BATCH).status == 405
    assert bench.post("/", {}).status == 405


def test_deleted_run_takes_nothing_and_says_why(bench: Bench) -> None:
    bench.log(metric("a"))
    bench.server.delete_run(bench.run_id)
    for answer in (
        bench.log(metric("b")),
        bench.post(f"{API}/runs/update", {"run_id": bench.run_id, "status": "FINISHED"}),
        bench.post(f"{API}/runs/set-tag", {"run_id": bench.run_id, "key": "k", "value": "v"}),
    ):
        assert (answer.status, "'active' state" in answer.json["message"]) == (400, True)
    assert bench.server.run(bench.run_id).lifecycle_stage == "deleted"
    assert [point.key for point in bench.points()] == ["a"]


def test_restored_run_takes_points_again(bench: Bench) -> None:
    bench.server.delete_run(bench.run_id)
    assert bench.post(f"{API}/runs/restore", {"run_id": bench.run_id}).status == 200
    assert bench.log(metric("a")).status == 200


def test_run_of_a_deleted_experiment_takes_nothing(bench: Bench) -> None:
    experiment_id = bench.server.create_experiment(f"doomed {bench.run_id}")
    run_id = bench.server.create_run(experiment_id=experiment_id)
    bench.post(f"{API}/experiments/delete", {"experiment_id": experiment_id})
    answer = bench.post(LOG_BATCH, {"run_id": run_id, "metrics": [metric("a")]})
    assert (answer.status, "'active' state" in answer.json["message"]) == (400, True)


def test_created_run_is_running_and_has_its_name_as_tag(bench: Bench) -> None:
    body = {"experiment_id": "0", "start_time": 1234, "run_name": "one", "tags": [{"key": "k", "value": "v"}]}
    info = bench.post(f"{API}/runs/create", body).json["run"]["info"]
    run = bench.server.run(info["run_id"])
    assert (run.status, run.start_time_ms, run.end_time_ms, run.name) == ("RUNNING", 1234, None, "one")
    assert run.tags == {"k": "v", "mlflow.runName": "one"}
    assert run.artifact_uri == f"mlflow-artifacts:/0/{run.run_id}/artifacts"


def test_creating_twice_makes_two_runs(bench: Bench) -> None:
    assert bench.server.create_run("twin") != bench.server.create_run("twin")


@pytest.mark.parametrize(
    ("experiment_id", "status"), [("99999", 404), ("x", 400), (0, 400), (None, 400)], ids=["none", "text", "int", "no"]
)
def test_run_needs_an_experiment_id_as_text(bench: Bench, experiment_id: Any, status: int) -> None:
    body = {"start_time": 1} if experiment_id is None else {"start_time": 1, "experiment_id": experiment_id}
    answer = bench.post(f"{API}/runs/create", body)
    assert (answer.status, "error_code" in answer.json) == (status, True)


def test_start_time_that_is_a_float_is_taken_as_zero(bench: Bench) -> None:
    answer = bench.post(f"{API}/runs/create", {"experiment_id": "0", "start_time": 1.5})
    assert (answer.status, answer.json["run"]["info"]["start_time"]) == (200, 0)


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_status_and_end_time_are_set_and_the_run_goes_on_taking_points(bench: Bench, status: str) -> None:
    body = {"run_id": bench.run_id, "status": status, "end_time": 99}
    assert bench.post(f"{API}/runs/update", body).json["run_info"]["status"] == status
    run = bench.server.run(bench.run_id)
    assert (run.status, run.end_time_ms) == (status, 99)
    assert bench.log(metric("late")).status == 200


def test_resumed_run_keeps_its_end_time(bench: Bench) -> None:
    bench.post(f"{API}/runs/update", {"run_id": bench.run_id, "status": "FINISHED", "end_time": 99})
    bench.post(f"{API}/runs/update", {"run_id": bench.run_id, "status": "RUNNING"})
    run = bench.server.run(bench.run_id)
    assert (run.status, run.end_time_ms) == ("RUNNING", 99)


def test_unknown_status_is_ignored(bench: Bench) -> None:
    assert bench.post(f"{API}/runs/update", {"run_id": bench.run_id, "status": "DONE"}).status == 200
    assert bench.server.run(bench.run_id).status == "RUNNING"


def test_runs_are_found_by_tag_and_by_id(bench: Bench) -> None:
    marked = bench.server.create_run(tags={"client.uuid": f"uuid-{bench.run_id}"})
    for text in (f"tags.`client.uuid` = 'uuid-{bench.run_id}'", f"attributes.run_id = '{marked}'"):
        assert [run.run_id for run in bench.server.runs(filter_string=text)] == [marked]
    both = f"tags.`client.uuid` LIKE 'uuid-%' and run_id = '{marked}' AND attributes.status = 'RUNNING'"
    assert [run.run_id for run in bench.server.runs(filter_string=both)] == [marked]
    assert bench.server.runs(filter_string=f"{both} and tags.other = 'x'") == []


def test_search_leaves_deleted_runs_out_unless_asked(bench: Bench) -> None:
    text = f"run_id = '{bench.run_id}'"
    bench.server.delete_run(bench.run_id)
    assert bench.server.runs(filter_string=text) == []
    body = {"experiment_ids": ["0"], "filter": text, "run_view_type": "DELETED_ONLY"}
    assert len(bench.post(f"{API}/runs/search", body).json["runs"]) == 1


def test_trend_is_the_history_thinned_by_step(bench: Bench) -> None:
    bench.log(*(metric("a", value=float(step), step=step) for step in (3, 1, 2, *range(4, 200))))
    path = f"{API}/metrics/get-history-bulk-interval?run_ids={bench.run_id}&metric_key=a"
    whole = bench.get(f"{path}&max_results=300").json["metrics"]
    assert [(point["step"], point["value"], point["key"]) for point in whole] == [
        (n, float(n), "a") for n in range(1, 200)
    ]
    thin = [point["step"] for point in bench.get(f"{path}&max_results=20").json["metrics"]]
    assert thin == sorted(set(thin))
    assert (thin[0], thin[-1], 15 <= len(thin) <= 21) == (1, 199, True)
    assert (
        bench.get(f"{API}/metrics/get-history-bulk-interval?run_ids={bench.run_id}&metric_key=b&max_results=5").json
        == {}
    )


def test_search_with_a_filter_that_cannot_be_read_is_refused(bench: Bench) -> None:
    answer = bench.post(f"{API}/runs/search", {"experiment_ids": ["0"], "filter": "tags.a ~ 'b'"})
    assert answer.status == 400


# Params and tags


def test_param_keeps_its_first_value_and_takes_the_batch_down(bench: Bench) -> None:
    first = [{"key": "lr", "value": "1"}]
    assert bench.log(params=first).status == bench.log(params=first).status == 200
    answer = bench.log(metric("a"), params=[{"key": "lr", "value": "2"}], tags=[{"key": "t", "value": "1"}])
    assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    run = bench.server.run(bench.run_id)
    assert (run.params, dict(run.metrics), "t" in run.tags) == ({"lr": "1"}, {}, False)


def test_log_parameter_refuses_a_changed_value(bench: Bench) -> None:
    body = {"run_id": bench.run_id, "key": "lr", "value": "1"}
    assert [bench.post(f"{API}/runs/log-parameter", body).status for _ in range(2)] == [200, 200]
    assert bench.post(f"{API}/runs/log-parameter", {**body, "value": "2"}).status == 400


def test_param_that_is_a_number_loses_what_follows(bench: Bench) -> None:
    params = [{"key": "a", "value": "1"}, {"key": "b", "value": 3}, {"key": "c", "value": "1"}]
    assert bench.log(params=params, tags=[{"key": "t", "value": "1"}]).status == 200
    run = bench.server.run(bench.run_id)
    assert ("c" in run.params, "t" in run.tags) == (False, False)


def test_tag_is_overwritten(bench: Bench) -> None:
    for value in ("1", "2"):
        assert bench.post(f"{API}/runs/set-tag", {"run_id": bench.run_id, "key": "t", "value": value}).status == 200
    assert bench.server.run(bench.run_id).tags["t"] == "2"


def test_long_values_are_cut(bench: Bench) -> None:
    bench.log(params=[{"key": "p", "value": "x" * 7000}], tags=[{"key": "t", "value": "x" * 9000}])
    run = bench.server.run(bench.run_id)
    assert (len(run.params["p"]), len(run.tags["t"])) == (6000, 8000)


# Experiments


def test_experiment_is_made_once_and_found_by_name_and_id(bench: Bench) -> None:
    name = f"experiment {bench.run_id}"
    by_name = f"{API}/experiments/get-by-name?experiment_name=experiment%20{bench.run_id}"
    assert bench.get(by_name).status == 404
    experiment_id = bench.server.create_experiment(name)
    again = bench.post(f"{API}/experiments/create", {"name": name})
    assert (again.status, again.json["error_code"]) == (400, "RESOURCE_ALREADY_EXISTS")
    assert bench.get(by_name).json["experiment"]["experiment_id"] == experiment_id
    found = bench.get(f"{API}/experiments/get?experiment_id={experiment_id}").json["experiment"]
    assert (found["name"], found["lifecycle_stage"]) == (name, "active")


def test_name_of_a_deleted_experiment_stays_taken(bench: Bench) -> None:
    name = f"gone {bench.run_id}"
    experiment_id = bench.server.create_experiment(name)
    bench.post(f"{API}/experiments/delete", {"experiment_id": experiment_id})
    assert bench.post(f"{API}/experiments/create", {"name": name}).json["error_code"] == "RESOURCE_ALREADY_EXISTS"
    for query in (f"get?experiment_id={experiment_id}", f"get-by-name?experiment_name={name.replace(' ', '+')}"):
        found = bench.get(f"{API}/experiments/{query}").json["experiment"]
        assert (found["experiment_id"], found["lifecycle_stage"]) == (experiment_id, "deleted")


@pytest.mark.parametrize(("experiment_id", "status"), [("99999", 404), ("x", 400), ("0", 200)])
def test_experiment_by_id(bench: Bench, experiment_id: str, status: int) -> None:
    assert bench.get(f"{API}/experiments/get?experiment_id={experiment_id}").status == status


def test_search_of_experiments_needs_a_page_size(bench: Bench) -> None:
    assert bench.post(f"{API}/experiments/search", {}).status == 400
    found = bench.post(f"{API}/experiments/search", {"max_results": 1000}).json["experiments"]
    assert "0" in {each["experiment_id"] for each in found}


# Traces


def test_trace_with_its_root_is_linked_and_told_back_whole(bench: Bench) -> None:
    trace_id, root_id = os.urandom(16), os.urandom(8)
    outputs = {"mlflow.spanInputs": '{"update": 3}', "mlflow.spanOutputs": '{"loss": 0.5}'}
    marks = {"session.id": bench.run_id, "mlflow.traceTag.algo": "ppo", "count": 2, "rate": 1.5, "nan": math.nan}
    root = span("update", trace_id, attributes={**outputs, **marks}, span_id=root_id)
    event = root.events.add(name="train", time_unix_nano=START_NS + 5)
    set_attributes(event, {"critic_loss": 0.5, "timesteps": 100, "note": "x"})
    assert bench.export(root, span("rollout", trace_id, root_id), run_id=bench.run_id).body == b""
    (trace,) = bench.server.traces(bench.run_id)
    assert (trace.trace_id, trace.state, trace.experiment_id) == (f"tr-{trace_id.hex()}", "OK", "0")
    assert (trace.request_preview, trace.response_preview) == ('{"update": 3}', '{"loss": 0.5}')
    assert trace.metadata["mlflow.trace.session"] == bench.run_id
    assert (trace.tags["algo"], trace.tags["service.name"]) == ("ppo", "bench")
    found = {each.name: each for each in trace.spans}
    assert (found["rollout"].parent_id, trace.root) == (root_id.hex(), found["update"])
    stored = found["update"].attributes
    assert (stored["mlflow.spanInputs"], stored["count"], stored["rate"]) == ({"update": 3}, 2, 1.5)
    assert math.isnan(stored["nan"])
    assert found["update"].events == (("train", START_NS + 5, {"critic_loss": 0.5, "timesteps": 100, "note": "x"}),)


def test_compressed_export_is_taken(bench: Bench) -> None:
    trace_id = os.urandom(16)
    headers = {**TRACE_HEADERS, "x-mlflow-run-id": bench.run_id, "Content-Encoding": "gzip"}
    assert bench.post("/v1/traces", gzip.compress(encoded([span("a", trace_id)])), headers).status == 200
    assert len(bench.server.traces(bench.run_id)) == 1


def test_json_export_is_taken(bench: Bench) -> None:
    trace_id = os.urandom(16).hex()
    one = {
        "traceId": trace_id,
        "spanId": "00" * 7 + "01",
        "name": "a",
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}
    assert bench.post("/v1/traces", body, {"x-mlflow-experiment-id": "0"}).status == 200
    assert bench.server.trace(f"tr-{trace_id}").spans[0].name == "a"


def test_repeated_export_changes_nothing(bench: Bench) -> None:
    trace_id = os.urandom(16)
    spans = [root := span("update", trace_id), span("child", trace_id, root.span_id)]
    for _ in range(3):
        bench.export(*spans, run_id=bench.run_id)
    (trace,) = bench.server.traces(bench.run_id)
    assert sorted(each.name for each in trace.spans) == ["child", "update"]


def test_span_that_comes_again_replaces_itself_and_lengthens_the_trace(bench: Bench) -> None:
    trace_id, span_id = os.urandom(16), os.urandom(8)
    bench.export(span("first", trace_id, span_id=span_id, attributes={"mlflow.spanInputs": '{"a": 1}'}))
    final = {"mlflow.spanInputs": '{"a": 2}', "mlflow.spanOutputs": '{"b": 2}'}
    bench.export(span("second", trace_id, seconds=9, span_id=span_id, attributes=final))
    trace = bench.server.trace(f"tr-{trace_id.hex()}")
    assert [(each.name, each.end_ns) for each in trace.spans] == [("second", START_NS + 9 * 10**9)]
    assert (trace.request_preview, trace.response_preview) == ('{"a": 1}', '{"b": 2}')


def test_trace_without_its_root_is_in_progress_and_not_linked(bench: Bench) -> None:
    trace_id, root_id = os.urandom(16), os.urandom(8)
    bench.export(span("child", trace_id, root_id), run_id=bench.run_id)
    assert bench.server.trace(f"tr-{trace_id.hex()}").state == "IN_PROGRESS"
    assert bench.server.traces(bench.run_id) == []
    bench.export(span("root", trace_id, span_id=root_id), run_id=bench.run_id)
    (trace,) = bench.server.traces(bench.run_id)
    assert (trace.state, len(trace.spans)) == ("OK", 2)


def test_state_comes_from_the_first_root(bench: Bench) -> None:
    trace_id = os.urandom(16)
    failed = span("root", trace_id)
    failed.status.code = 2
    bench.export(failed)
    bench.export(span("root", trace_id, span_id=failed.span_id))
    assert bench.server.trace(f"tr-{trace_id.hex()}").state == "ERROR"


def test_100_roots_in_one_export_are_linked_and_101_are_not(bench: Bench) -> None:
    roots = [span("update", os.urandom(16)) for _ in range(101)]
    assert bench.export(*roots, run_id=bench.run_id).status == 200
    assert bench.num_linked() == 0
    bench.export(*roots[:100], run_id=bench.run_id)
    assert bench.num_linked() == 100


def test_traces_are_linked_by_their_ids(bench: Bench) -> None:
    trace_id = os.urandom(16)
    bench.export(span("update", trace_id))
    body = {"trace_ids": [f"tr-{trace_id.hex()}"], "run_id": bench.run_id}
    assert bench.post(f"{API}/traces/link-to-run", body).status == 200
    assert len(bench.server.traces(bench.run_id)) == 1
    assert bench.post(f"{API}/traces/link-to-run", {**body, "trace_ids": ["tr-x"]}).status == 200
    assert bench.post(f"{API}/traces/link-to-run", {**body, "trace_ids": ["tr-x"] * 101}).status == 400


def test_traces_are_deleted_once_and_only_in_their_experiment(bench: Bench) -> None:
    number = os.urandom(16)
    bench.export(span("update", number))
    trace_id = f"tr-{number.hex()}"

    def delete(experiment_id: str) -> int:
        body = {"experiment_id": experiment_id, "request_ids": [trace_id, "tr-" + "0" * 32]}
        answer = bench.post("/api/3.0/mlflow/traces/delete-traces", body)
        assert answer.status == 200
        return int(answer.json["traces_deleted"])

    assert [delete(bench.server.create_experiment(f"of traces {trace_id}")), delete("0"), delete("0")] == [0, 1, 0]
    with pytest.raises(KeyError):
        bench.server.trace(trace_id)


def test_traces_are_found_by_run_tag_name_and_span(bench: Bench) -> None:
    trace_id, word = os.urandom(16), f"w{bench.run_id}"
    marks = {"mlflow.traceTag.word": word, "mlflow.traceTag.mlflow.traceName": word}
    bench.export(span(word, trace_id, attributes=marks), run_id=bench.run_id)
    bench.export(span("other", os.urandom(16)))
    for text in (
        f"run_id = '{bench.run_id}'",
        f"metadata.`mlflow.sourceRun` = '{bench.run_id}'",
        f"tag.word = '{word}'",
        f"name = '{word}'",
        f"span.name = '{word}'",
    ):
        found = bench.search_traces(text).json["traces"]
        assert [each["trace_id"] for each in found] == [f"tr-{trace_id.hex()}"], text
    assert bench.search_traces("surprise = '1'").status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-mlflow-experiment-id": "99999"}, 404),
        ({"x-mlflow-experiment-id": "x"}, 400),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Encoding": "zstd"}, 400),
        ({"Content-Encoding": "gzip"}, 400),
        ({"x-mlflow-run-id": NOBODY}, 200),
    ],
)
def test_export_with_these_headers(bench: Bench, headers: dict[str, str], status: int) -> None:
    body = encoded([span("a", os.urandom(16))])
    assert bench.post("/v1/traces", body, {**TRACE_HEADERS, **headers}).status == status


def test_export_without_an_experiment_is_a_422(bench: Bench) -> None:
    body = encoded([span("a", os.urandom(16))])
    assert bench.post("/v1/traces", body, {"Content-Type": "application/x-protobuf"}).status == 422


@pytest.mark.parametrize("body", [b"", b"garbage!!"])
def test_export_that_is_none_is_a_400(bench: Bench, body: bytes) -> None:
    assert bench.post("/v1/traces", body, TRACE_HEADERS).status == 400


def test_span_without_an_id_refuses_the_whole_export(bench: Bench) -> None:
    good = span("good", os.urandom(16))
    for bad in (span("bad", b""), Span(name="bad", trace_id=os.urandom(16))):
        assert bench.export(good, bad).status == 422
    with pytest.raises(KeyError):
        bench.server.trace(f"tr-{good.trace_id.hex()}")


@pytest.mark.parametrize("path", ["/v1/traces/", "/v1/metrics", "/v1/logs"])
def test_other_otlp_routes_do_not_exist(bench: Bench, path: str) -> None:
    assert bench.post(path, b"", TRACE_HEADERS).status == 404


# Artifacts, probes, gates


def test_artifact_is_stored_and_overwritten(bench: Bench) -> None:
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{bench.run_id}/artifacts/config.yaml"
    for body in (b"first", b"second"):
        assert send(bench.server.uri, "PUT", path, body).status == 200
    assert bench.server.artifact(bench.run_id, "config.yaml") == b"second"
    assert bench.server.artifact(bench.run_id, "none") is None
    assert send(bench.server.uri, "PUT", path.replace("config.yaml", "../../../x"), b"").status == 400


def test_probes(bench: Bench) -> None:
    info = bench.get("/api/3.0/mlflow/server-info").json
    assert (info["store_type"], info["workspaces_enabled"]) == ("SqlStore", False)
    assert bench.get("/health").text == "OK"
    assert bench.get("/version").text[0].isdigit()


@pytest.mark.parametrize("host", ["evil.example", "LOCALHOST", "100.64.0.1", "host.docker.internal:5000"])
def test_foreign_host_header_is_a_403_but_health_answers(bench: Bench, host: str) -> None:
    answer = bench.get("/api/3.0/mlflow/server-info", {"Host": host})
    assert (answer.status, "Invalid Host header" in answer.text) == (403, True)
    assert bench.post("/v1/traces", b"", {**TRACE_HEADERS, "Host": host}).status == 403
    assert bench.get("/health", {"Host": host}).status == 200


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:80", "10.1.2.3", "172.20.0.1:5000"])
def test_local_and_private_host_headers_pass(bench: Bench, host: str) -> None:
    assert bench.get("/api/3.0/mlflow/server-info", {"Host": host}).status == 200


def test_workspace_header_is_refused_where_there_are_none(bench: Bench) -> None:
    answer = bench.get(f"{API}/experiments/get?experiment_id=0", {"X-MLFLOW-WORKSPACE": "team"})
    assert (answer.status, answer.json["error_code"]) == (500, "FEATURE_DISABLED")
