"""MLflow's routes, each with its handler, and what becomes of a handler that refuses or breaks."""

import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from rltelemetry.testing.exchange import Answer, Request
from rltelemetry.testing.fake_mlflow.answers import (
    Refused,
    internal_error,
    invalid,
    json_answer,
    method_not_allowed,
    not_found,
    text_answer,
)
from rltelemetry.testing.fake_mlflow.experiments import DEFAULT_WORKSPACE, Experiments
from rltelemetry.testing.fake_mlflow.messages import read
from rltelemetry.testing.fake_mlflow.runs import Runs
from rltelemetry.testing.fake_mlflow.traces import BadExport, Traces, read_export

__all__ = ["ARTIFACTS", "SERVER_INFO", "Routes"]

API: Final = "/api/2.0/mlflow"
API_3: Final = "/api/3.0/mlflow"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts/"
VERSION: Final = "3.17.2"
SERVER_INFO: Final = f"{API_3}/server-info"

Handler = Callable[[Request], Answer]


class Routes:
    """The server behind its gates: takes one request at a time.

    Args:
        store_type: `SqlStore`, or `FileStore`, which refuses traces.
        workspaces: names of further workspaces; empty switches the feature off.
        has_traces: whether there is a trace route at all.
        links_runs: whether the trace route heeds the header that names a run.
    """

    def __init__(self, store_type: str, workspaces: tuple[str, ...], *, has_traces: bool, links_runs: bool) -> None:
        self.experiments = Experiments()
        self.runs = Runs(self.experiments)
        self.traces = Traces()
        self._artifacts: dict[str, bytes] = {}
        self._store_type = store_type
        self._workspaces = workspaces
        self._links_runs = links_runs
        self._lock = threading.Lock()
        self._handlers = self._make_handlers(has_traces=has_traces)

    def answer(self, request: Request) -> Answer:
        """Answer a request that has passed the gates."""
        with self._lock:
            try:
                return self._routed(request)
            except Refused as refused:
                return refused.answer
            except BadExport as bad:
                return json_answer({"detail": bad.detail}, bad.status)
            except Exception:  # MLflow's own handler breaks there, too
                return internal_error()

    def _routed(self, request: Request) -> Answer:
        if request.path.startswith(ARTIFACTS):
            return self._artifact(request)
        methods = self._handlers.get(request.path, {})
        handler = methods.get(request.method)
        if handler is not None:
            return handler(request)
        return method_not_allowed() if methods and request.path != "/v1/traces" else not_found()

    def _make_handlers(self, *, has_traces: bool) -> dict[str, dict[str, Handler]]:
        get = {
            "/": lambda _request: text_answer(200, "MLflow"),
            "/version": lambda _request: text_answer(200, VERSION),
            SERVER_INFO: self._server_info,
            f"{API}/experiments/get": self._get_experiment,
            f"{API}/experiments/get-by-name": self._get_experiment_by_name,
            f"{API}/runs/get": self._get_run,
            f"{API}/metrics/get-history": self._history,
            f"{API}/metrics/get-history-bulk-interval": self._trend,
            f"{API_3}/traces/get": self._get_trace,
        }
        post = {
            f"{API}/experiments/create": self._create_experiment,
            f"{API}/experiments/delete": self._delete_experiment,
            f"{API}/experiments/search": self._search_experiments,
            f"{API}/runs/create": self._create_run,
            f"{API}/runs/delete": lambda request: self._set_stage(request, "deleted"),
            f"{API}/runs/restore": lambda request: self._set_stage(request, "active"),
            f"{API}/runs/update": self._update_run,
            f"{API}/runs/search": self._search_runs,
            f"{API}/runs/log-batch": self._log_batch,
            f"{API}/runs/log-metric": self._log_metric,
            f"{API}/runs/log-parameter": self._log_parameter,
            f"{API}/runs/set-tag": self._set_tag,
            f"{API}/traces/link-to-run": self._link_traces,
            f"{API_3}/traces/delete-traces": self._delete_traces,
            f"{API_3}/traces/search": self._search_traces,
        }
        if has_traces:
            post["/v1/traces"] = self._export
        routes: dict[str, dict[str, Handler]] = {}
        for method, handlers in (("GET", get), ("POST", post)):
            for path, handler in handlers.items():
                routes.setdefault(path, {})[method] = handler
        return routes

    def _workspace(self, request: Request) -> str:
        asked = request.headers.get("x-mlflow-workspace", "").strip()
        if asked and not self._workspaces:
            raise Refused("FEATURE_DISABLED", "Workspace APIs are not available: workspaces are not enabled")
        if asked and asked not in {DEFAULT_WORKSPACE, *self._workspaces}:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"Workspace '{asked}' not found")
        return asked or DEFAULT_WORKSPACE

    def _server_info(self, _request: Request) -> Answer:
        return json_answer({"store_type": self._store_type, "workspaces_enabled": bool(self._workspaces)})

    def _get_experiment(self, request: Request) -> Answer:
        found = self.experiments.get(read("ExperimentById", request).experiment_id, self._workspace(request))
        return json_answer({"experiment": found.json})

    def _get_experiment_by_name(self, request: Request) -> Answer:
        name = read("ExperimentByName", request).experiment_name
        return json_answer({"experiment": self.experiments.get_by_name(name, self._workspace(request)).json})

    def _create_experiment(self, request: Request) -> Answer:
        made = self.experiments.create(read("CreateExperiment", request).name, self._workspace(request))
        return json_answer({"experiment_id": made})

    def _delete_experiment(self, request: Request) -> Answer:
        experiment_id = read("ExperimentById", request).experiment_id
        self.experiments.delete(experiment_id, self._workspace(request))
        self.runs.delete_all(experiment_id)
        return json_answer({})

    def _search_experiments(self, request: Request) -> Answer:
        size = read("SearchExperiments", request).max_results
        if size <= 0:
            raise invalid(f"Invalid value {size} for parameter 'max_results' supplied. It must be a positive integer")
        return json_answer({"experiments": [each.json for each in self.experiments.active(self._workspace(request))]})

    def _create_run(self, request: Request) -> Answer:
        return json_answer({"run": self.runs.create(read("CreateRun", request), self._workspace(request)).json})

    def _get_run(self, request: Request) -> Answer:
        return json_answer({"run": self.runs.get(read("RunById", request).run_id).json})

    def _set_stage(self, request: Request, stage: str) -> Answer:
        self.runs.get(read("RunById", request).run_id).lifecycle_stage = stage
        return json_answer({})

    def _update_run(self, request: Request) -> Answer:
        return json_answer({"run_info": self.runs.update(read("UpdateRun", request)).info})

    def _search_runs(self, request: Request) -> Answer:
        found, more = self.runs.search(read("SearchRuns", request))
        return json_answer({"runs": [run.json for run in found], **more} if found else {})

    def _log_batch(self, request: Request) -> Answer:
        self.runs.log_batch(read("LogBatch", request))
        return json_answer({})

    def _log_metric(self, request: Request) -> Answer:
        self.runs.log_metric(read("LogMetric", request))
        return json_answer({})

    def _log_parameter(self, request: Request) -> Answer:
        self.runs.log_parameter(read("LogParam", request))
        return json_answer({})

    def _set_tag(self, request: Request) -> Answer:
        self.runs.set_tag(read("SetTag", request))
        return json_answer({})

    def _history(self, request: Request) -> Answer:
        points, more = self.runs.history(read("GetMetricHistory", request))
        return json_answer({"metrics": points, **more} if points else {})

    def _trend(self, request: Request) -> Answer:
        points = self.runs.trend(read("GetTrend", request))
        return json_answer({"metrics": points} if points else {})

    def _export(self, request: Request) -> Answer:
        experiment_id = request.headers.get("x-mlflow-experiment-id")
        if experiment_id is None:
            missing = {"type": "missing", "loc": ["header", "x-mlflow-experiment-id"], "msg": "Field required"}
            return json_answer({"detail": [missing]}, 422)
        export = read_export(request)
        if self._store_type != "SqlStore":
            raise BadExport(501, f"REST OTLP span logging is not supported by {self._store_type}")
        self.experiments.get(experiment_id, self._workspace(request))
        complete = self.traces.add(export, experiment_id)
        run_id = request.headers.get("x-mlflow-run-id")
        if run_id and self._links_runs:
            self.traces.link(complete, run_id)  # too many: the server says so in its log only
        return Answer(200, {"content-type": "application/x-protobuf"})

    def _link_traces(self, request: Request) -> Answer:
        message = read("LinkTraces", request)
        if not self.traces.link(message.trace_ids, message.run_id):
            raise invalid("Cannot link more than 100 traces to a run in a single request.")
        return json_answer({})

    def _delete_traces(self, request: Request) -> Answer:
        message = read("DeleteTraces", request)
        return json_answer({"traces_deleted": self.traces.delete(message.experiment_id, message.request_ids)})

    def _search_traces(self, request: Request) -> Answer:
        found, more = self.traces.search(read("SearchTraces", request))
        return json_answer({"traces": [trace.info for trace in found], **more} if found else {})

    def _get_trace(self, request: Request) -> Answer:
        trace_id = read("TraceById", request).trace_id
        if trace_id not in self.traces.by_id:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"Trace with ID {trace_id} is not found.")
        return json_answer({"trace": self.traces.by_id[trace_id].json})

    def _artifact(self, request: Request) -> Answer:
        path = unquote(request.path.removeprefix(ARTIFACTS))
        if ".." in path.split("/"):
            raise invalid("Invalid path")
        if request.method == "PUT":
            self._artifacts[path] = request.body
            return Answer(200, {})
        if request.method == "DELETE":
            self._artifacts.pop(path, None)  # a file that is not there is no error to a real server
            return Answer(200, {})
        if request.method == "GET" and path in self._artifacts:
            return Answer(200, {"content-type": "application/octet-stream"}, self._artifacts[path])
        return not_found() if request.method == "GET" else method_not_allowed()
