"""What a test may ask of an MLflow server, be it the fake or a real one."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from rltelemetry.testing.exchange import Answer
from rltelemetry.types import MetricPoint

__all__ = ["MlflowServer", "RunView", "SpanEventView", "SpanView", "TraceView"]

API: Final = "/api/2.0/mlflow"
API_3: Final = "/api/3.0/mlflow"
PAGE: Final = 5000
TRACES_PAGE: Final = 500


@dataclass(frozen=True)
class RunView:
    """A run as the server tells it; `metrics` holds the latest point of each key."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_time_ms: int
    end_time_ms: int | None
    lifecycle_stage: str
    artifact_uri: str
    metrics: Mapping[str, MetricPoint]
    params: Mapping[str, str]
    tags: Mapping[str, str]


class SpanEventView(NamedTuple):
    """An event of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


class SpanView(NamedTuple):
    """A span; identifiers are hex, `status` is `UNSET`, `OK` or `ERROR`."""

    name: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    status: str
    attributes: Mapping[str, Any]
    events: tuple[SpanEventView, ...]


@dataclass(frozen=True)
class TraceView:
    """A trace with its spans; `state` is `IN_PROGRESS`, `OK` or `ERROR`."""

    trace_id: str
    state: str
    experiment_id: str
    request_preview: str | None
    response_preview: str | None
    tags: Mapping[str, str]
    metadata: Mapping[str, str]
    spans: tuple[SpanView, ...]

    @property
    def root(self) -> SpanView | None:
        """The span without a parent, if it has arrived."""
        return next((span for span in self.spans if span.parent_id is None), None)


class MlflowServer(ABC):
    """A server that can be asked what it has stored, whatever the state of the network before it."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where clients reach it."""

    @abstractmethod
    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Put one request to the server itself, past every fault that is injected."""

    def create_experiment(self, name: str) -> str:
        """Make an experiment and return its id."""
        return str(self._json("POST", f"{API}/experiments/create", {"name": name})["experiment_id"])

    def create_run(self, name: str = "", experiment_id: str = "0", tags: Mapping[str, str] | None = None) -> str:
        """Make a run and return its id."""
        listed = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        body = {"experiment_id": experiment_id, "start_time": 1, "run_name": name, "tags": listed}
        return str(self._json("POST", f"{API}/runs/create", body)["run"]["info"]["run_id"])

    def delete_run(self, run_id: str) -> None:
        """Delete a run as the UI does: it can be restored."""
        self._json("POST", f"{API}/runs/delete", {"run_id": run_id})

    def run(self, run_id: str) -> RunView:
        """Return a run; KeyError if there is none."""
        answer = self.ask("GET", f"{API}/runs/get?{urlencode({'run_id': run_id})}")
        if answer.status == 404:
            raise KeyError(run_id)
        return _run_view(_checked(answer)["run"])

    def runs(self, experiment_id: str = "0", filter_string: str = "") -> list[RunView]:
        """Return an experiment's runs that are not deleted, the latest first."""
        body = {"experiment_ids": [experiment_id], "filter": filter_string, "max_results": PAGE}
        return [_run_view(run) for run in self._json("POST", f"{API}/runs/search", body).get("runs", [])]

    def points(self, run_id: str, key: str | None = None) -> list[MetricPoint]:
        """Return every point of a run, or of one of its keys; keys sorted, points as they came."""
        keys = [key] if key is not None else sorted(self.run(run_id).metrics)
        return [point for each in keys for point in self._history(run_id, each)]

    def traces(self, run_id: str | None = None, experiment_id: str = "0") -> list[TraceView]:
        """Return the traces that are linked to a run, or all of an experiment, with their spans, oldest first."""
        body: dict[str, Any] = {
            "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}],
            "max_results": TRACES_PAGE,
        }
        if run_id is not None:
            body["filter"] = f"run_id = '{run_id}'"
        infos: list[dict[str, Any]] = []
        while True:
            page = self._json("POST", f"{API_3}/traces/search", body)
            infos += page.get("traces", [])
            if not page.get("next_page_token"):
                break
            body["page_token"] = page["next_page_token"]
        return [self.trace(info["trace_id"]) for info in reversed(infos)]

    def trace(self, trace_id: str) -> TraceView:
        """Return a trace with its spans; KeyError if there is none."""
        answer = self.ask("GET", f"{API_3}/traces/get?{urlencode({'trace_id': trace_id})}")
        if answer.status == 404:
            raise KeyError(trace_id)
        return _trace_view(_checked(answer)["trace"])

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """Return a file of a run's artifacts, None if there is none."""
        root = self.run(run_id).artifact_uri.removeprefix("mlflow-artifacts:/")
        answer = self.ask("GET", f"/api/2.0/mlflow-artifacts/artifacts/{root}/{quote(path)}")
        return answer.body if answer.status == 200 else None

    def _history(self, run_id: str, key: str) -> list[MetricPoint]:
        query = {"run_id": run_id, "metric_key": key, "max_results": str(PAGE)}
        points: list[MetricPoint] = []
        while True:
            page = self._json("GET", f"{API}/metrics/get-history?{urlencode(query)}")
            points += [_point(metric) for metric in page.get("metrics", [])]
            if not page.get("next_page_token"):
                return points
            query["page_token"] = page["next_page_token"]

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return _checked(self.ask(method, path, body))


def _checked(answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        raise RuntimeError(f"MLflow: got {answer.status} {answer.text[:300]}; expected 200.")
    found: dict[str, Any] = answer.json
    return found


def _pairs(listed: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in listed}


def _point(metric: Mapping[str, Any]) -> MetricPoint:
    return MetricPoint(metric["key"], float(metric["value"]), int(metric.get("step", 0)), int(metric["timestamp"]))


def _run_view(run: Mapping[str, Any]) -> RunView:
    info, data = run["info"], run.get("data", {})
    return RunView(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        name=info.get("run_name", ""),
        status=info["status"],
        start_time_ms=int(info["start_time"]),
        end_time_ms=int(info["end_time"]) if "end_time" in info else None,
        lifecycle_stage=info["lifecycle_stage"],
        artifact_uri=info["artifact_uri"],
        metrics={metric["key"]: _point(metric) for metric in data.get("metrics", [])},
        params=_pairs(data.get("params", [])),
        tags=_pairs(data.get("tags", [])),
    )


def _trace_view(trace: Mapping[str, Any]) -> TraceView:
    info = trace["trace_info"]
    return TraceView(
        trace_id=info["trace_id"],
        state=info["state"],
        experiment_id=info["trace_location"]["mlflow_experiment"]["experiment_id"],
        request_preview=info.get("request_preview"),
        response_preview=info.get("response_preview"),
        tags=info.get("tags", {}),
        metadata=info.get("trace_metadata", {}),
        spans=tuple(_span_view(span) for span in trace.get("spans", [])),
    )


def _span_view(span: Mapping[str, Any]) -> SpanView:
    events = span.get("events", [])
    return SpanView(
        name=span["name"],
        span_id=_hex(span["span_id"]),
        parent_id=_hex(span["parent_span_id"]) if span.get("parent_span_id") else None,
        start_ns=int(span["start_time_unix_nano"]),
        end_ns=int(span.get("end_time_unix_nano", 0)),
        status=span.get("status", {}).get("code", "STATUS_CODE_UNSET").removeprefix("STATUS_CODE_"),
        attributes=_attributes(span),
        events=tuple(
            SpanEventView(event["name"], int(event["time_unix_nano"]), _attributes(event)) for event in events
        ),
    )


def _hex(encoded: str) -> str:
    return base64.b64decode(encoded).hex()


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in holder.get("attributes", [])}


def _value(any_value: Mapping[str, Any]) -> Any:
    """Turn one OTLP value, as JSON, into a Python value."""
    for kind, value in any_value.items():
        if kind == "array_value":
            return [_value(item) for item in value.get("values", [])]
        if kind == "kvlist_value":
            return {pair["key"]: _value(pair["value"]) for pair in value.get("values", [])}
        if kind == "double_value":
            return float(value)
        return int(value) if kind == "int_value" else value
    return None
