"""Runs: what is stored, and what is refused."""

import re
import sys
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from rltelemetry.testing.fake_mlflow.answers import Refused, invalid
from rltelemetry.testing.fake_mlflow.entries import MAX_PARAM, MAX_TAG, Point, check_sizes, to_pairs, to_point
from rltelemetry.testing.fake_mlflow.experiments import Experiments
from rltelemetry.testing.fake_mlflow.filters import matcher, page

__all__ = ["Run", "Runs"]

STATUSES: Final = ("", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")

_RUN_ID: Final = re.compile(r"^[a-zA-Z0-9][\w\-]{0,255}$")
_ENTITIES: Final = {
    "": "attributes",
    "attribute": "attributes",
    "attributes": "attributes",
    "tag": "tags",
    "tags": "tags",
    "param": "params",
    "params": "params",
}


@dataclass
class Run:
    """A run and everything that was logged into it."""

    run_id: str
    experiment_id: str
    name: str
    user_id: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    lifecycle_stage: str = "active"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    history: dict[str, dict[Point, None]] = field(default_factory=dict)

    @property
    def info(self) -> dict[str, Any]:
        """The head of the run, as JSON."""
        end = {} if self.end_time is None else {"end_time": self.end_time}
        return {
            "run_uuid": self.run_id,
            "experiment_id": self.experiment_id,
            "run_name": self.name,
            "user_id": self.user_id,
            "status": self.status,
            "start_time": self.start_time,
            **end,
            "artifact_uri": f"mlflow-artifacts:/{self.experiment_id}/{self.run_id}/artifacts",
            "lifecycle_stage": self.lifecycle_stage,
            "run_id": self.run_id,
        }

    @property
    def json(self) -> dict[str, Any]:
        """The run with the latest point of each key, as JSON."""
        data: dict[str, Any] = {
            "metrics": [max(points, key=lambda point: point.rank).json for points in self.history.values()],
            "params": [{"key": key, "value": value} for key, value in self.params.items()],
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
        }
        return {"info": self.info, "data": {name: listed for name, listed in data.items() if listed}}

    def lookup(self, entity: str, key: str) -> str | None:
        """Find a value for a filter."""
        if entity == "attributes":
            return {"run_id": self.run_id, "status": self.status, "run_name": self.name}.get(key)
        return (self.tags if entity == "tags" else self.params).get(key)


class Runs:
    """The store. Not thread-safe: one request at a time.

    Args:
        experiments: where the runs lie.
    """

    def __init__(self, experiments: Experiments) -> None:
        self.by_id: dict[str, Run] = {}
        self._experiments = experiments

    def create(self, message: Any, workspace: str) -> Run:
        """Make a run; each call makes another one."""
        if not message.experiment_id:
            raise Refused("BAD_REQUEST", "(sqlite3.IntegrityError) FOREIGN KEY constraint failed")
        if self._experiments.get(message.experiment_id, workspace).lifecycle_stage != "active":
            raise invalid(f"The experiment {message.experiment_id} must be in the 'active' state.")
        tags = to_pairs("tags", message.tags, MAX_TAG)
        run_id = uuid.uuid4().hex
        name = message.run_name or tags.get("mlflow.runName") or f"unnamed-run-{len(self.by_id)}"
        run = Run(run_id, message.experiment_id, name, message.user_id, message.start_time)
        run.tags = {**tags, "mlflow.runName": name}
        self.by_id[run_id] = run
        return run

    def get(self, run_id: str) -> Run:
        """Look a run up, deleted or not."""
        if not _RUN_ID.match(run_id):
            raise invalid(f"Invalid value \"{run_id}\" for parameter 'run_id' supplied.")
        if run_id not in self.by_id:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"Run with id={run_id} not found")
        return self.by_id[run_id]

    def get_active(self, run_id: str) -> Run:
        """Look a run up that may be written to; a finished one may."""
        run = self.get(run_id)
        if run.lifecycle_stage != "active":
            raise invalid(f"The run {run_id} must be in the 'active' state. Current state is {run.lifecycle_stage}.")
        return run

    def delete_all(self, experiment_id: str) -> None:
        """Delete the runs of a deleted experiment."""
        for run in self.by_id.values():
            if run.experiment_id == experiment_id:
                run.lifecycle_stage = "deleted"

    def update(self, message: Any) -> Run:
        """Set status, end time and name, as far as they are given."""
        run = self.get_active(message.run_id)
        if message.HasField("status"):
            run.status = STATUSES[message.status]
        if message.HasField("end_time"):
            run.end_time = message.end_time
        if message.run_name:
            run.name = run.tags["mlflow.runName"] = message.run_name
        return run

    def search(self, message: Any) -> tuple[list[Run], dict[str, str]]:
        """Return a page of runs, the latest first, and what to add to the answer."""
        matches = matcher(message.filter, _ENTITIES)
        stages = {2: {"deleted"}, 3: {"active", "deleted"}}.get(message.run_view_type, {"active"})
        found = [
            run
            for run in self.by_id.values()
            if run.experiment_id in message.experiment_ids and run.lifecycle_stage in stages and matches(run.lookup)
        ]
        found.sort(key=lambda run: (-run.start_time, run.run_id))
        chosen, more = page(found, message.page_token, message.max_results or 1000)
        return list(chosen), more

    def log_batch(self, message: Any) -> None:
        """Store metrics, parameters and tags: all of them, or none."""
        check_sizes(message)
        points = [to_point(f"metrics[{index}]", metric) for index, metric in enumerate(message.metrics)]
        params = to_pairs("params", message.params, MAX_PARAM)
        tags = to_pairs("tags", message.tags, MAX_TAG)
        if len(params) != len(message.params):
            raise invalid("Duplicate parameter keys have been submitted.")
        run = self.get_active(message.run_id)
        self._set_params(run, params)
        run.tags |= tags
        for point in points:
            run.history.setdefault(point.key, {}).setdefault(point)

    def log_metric(self, message: Any) -> None:
        """Store one point."""
        point = to_point("metric", message)
        self.get_active(message.run_id).history.setdefault(point.key, {}).setdefault(point)

    def log_parameter(self, message: Any) -> None:
        """Store one parameter."""
        self._set_params(self.get_active(message.run_id), to_pairs("param", [message], MAX_PARAM))

    def set_tag(self, message: Any) -> None:
        """Set one tag."""
        self.get_active(message.run_id).tags |= to_pairs("tag", [message], MAX_TAG)

    def history(self, message: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return points in the order in which they came; an unknown run or key has none."""
        size = message.max_results if message.HasField("max_results") else sys.maxsize
        if size <= 0:
            raise invalid(f"Invalid value {size} for parameter 'max_results' supplied. It must be a positive integer.")
        run = self.by_id.get(message.run_id)
        points = list(run.history.get(message.metric_key, {})) if run else []
        chosen, more = page(points, message.page_token, size)
        return [point.json for point in chosen], more

    def trend(self, message: Any) -> list[dict[str, Any]]:
        """Return the points of one key by step, thinned evenly, the first and the last among them."""
        found: list[dict[str, Any]] = []
        for run_id in message.run_ids:
            run = self.by_id.get(run_id)
            points = sorted(run.history.get(message.metric_key, {}) if run else (), key=lambda point: point.step)
            if len(points) > message.max_results:
                chosen = range(message.max_results)
                points = [points[number * (len(points) - 1) // (message.max_results - 1)] for number in chosen]
            found += [{**point.json, "run_id": run_id} for point in points]
        return found

    def _set_params(self, run: Run, params: dict[str, str]) -> None:
        """Store parameters, once and for all."""
        changed = [key for key, value in params.items() if run.params.get(key, value) != value]
        if changed:
            raise invalid(f"Changing param values is not allowed. Params were already logged='{changed}'.")
        run.params |= params
