"""What MLflow's answers say, and where it shows a run: its JSON is taken apart here.

Total: an answer that is not as it should be says nothing.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rltelemetry.plan import OWNER_TAG, REASON_TAG
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.types import MetricPoint

__all__ = [
    "NO_EXPERIMENT",
    "NO_RUN",
    "ExperimentFacts",
    "RunFacts",
    "read_experiment",
    "read_points",
    "read_run",
    "read_runs",
    "read_trace_ids",
    "run_page",
    "trace_name",
]

REMEDY: Final = "Is it an MLflow server that answers there?"
NO_RUN: Final = Outcome(Verdict.HELD, 200, "the answer holds no run", REMEDY)
NO_EXPERIMENT: Final = Outcome(Verdict.HELD, 200, "the answer holds no experiment", REMEDY)
"""What becomes of a question whose answer does not hold what was asked for."""


class ExperimentFacts(NamedTuple):
    """What the server says of an experiment.

    Attributes:
        experiment_id: its id.
        name: what it is called; empty if it has just been made.
        is_deleted: whether it is in MLflow's bin.
    """

    experiment_id: str
    name: str
    is_deleted: bool


class RunFacts(NamedTuple):
    """What the server says of a run.

    Attributes:
        run_id: its id.
        experiment_id: where it lies.
        artifact_uri: where its artifacts go.
        status: RUNNING, FINISHED ...
        owner: the process that has looked after it last.
        reason: why it has not finished; empty if it has, or does not say.
        name: what it is called.
        is_deleted: whether it is in MLflow's bin.
        latest: the last point of each key.
    """

    run_id: str
    experiment_id: str
    artifact_uri: str
    status: str
    owner: str
    reason: str
    name: str
    is_deleted: bool
    latest: list[MetricPoint]

    @property
    def artifact_root(self) -> str | None:
        """Where its artifacts go, below the server's artifact route; None if it takes none."""
        scheme, _, root = self.artifact_uri.partition(":")
        return root.strip("/") if scheme == "mlflow-artifacts" else None


def read_experiment(answer: Mapping[str, Any]) -> ExperimentFacts | None:
    """Return the experiment of an answer, one of which it only tells the new id included; None if there is none."""
    try:
        experiment = answer.get("experiment") or answer
        return ExperimentFacts(
            experiment_id=str(experiment["experiment_id"]),
            name=str(experiment.get("name") or ""),
            is_deleted=experiment.get("lifecycle_stage") == "deleted",
        )
    except (KeyError, TypeError, AttributeError):
        return None


def read_run(answer: Mapping[str, Any]) -> RunFacts | None:
    """Return the run of an answer, None if there is none in it."""
    return _facts_of(answer.get("run"))


def read_runs(answer: Mapping[str, Any]) -> list[RunFacts]:
    """Return the runs that a search has found."""
    return [facts for run in _list(answer, "runs") if (facts := _facts_of(run)) is not None]


def read_points(answer: Mapping[str, Any]) -> list[MetricPoint]:
    """Return the points of an answer, or of a run's data."""
    return [point for metric in _list(answer, "metrics") if (point := _point_of(metric)) is not None]


def read_trace_ids(answer: Mapping[str, Any]) -> set[str]:
    """Return MLflow's names of the traces that a search has found."""
    return {str(trace.get("trace_id")) for trace in _list(answer, "traces") if isinstance(trace, dict)}


def trace_name(trace_id: bytes) -> str:
    """Return MLflow's name of an OpenTelemetry trace."""
    return f"tr-{trace_id.hex()}"


def run_page(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{tracking_uri}/#/experiments/{experiment_id}/runs/{run_id}"


def _facts_of(run: Any) -> RunFacts | None:
    try:
        info, data = run["info"], run.get("data") or {}
        tags = {tag["key"]: str(tag["value"]) for tag in data.get("tags", [])}
        return RunFacts(
            run_id=str(info["run_id"]),
            experiment_id=str(info["experiment_id"]),
            artifact_uri=str(info.get("artifact_uri", "")),
            status=str(info.get("status", "")),
            owner=tags.get(OWNER_TAG, ""),
            reason=tags.get(REASON_TAG, ""),
            name=str(info.get("run_name") or ""),
            is_deleted=info.get("lifecycle_stage") == "deleted",
            latest=read_points(data),
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _point_of(metric: Any) -> MetricPoint | None:
    try:
        return MetricPoint(metric["key"], float(metric["value"]), int(metric.get("step", 0)), int(metric["timestamp"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _list(answer: Mapping[str, Any], key: str) -> list[Any]:
    found = answer.get(key)
    return found if isinstance(found, list) else []
