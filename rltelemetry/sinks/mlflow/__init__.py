"""The MLflow sink: points and traces -> spool -> client (MLflow's API) -> http (httpx) -> transport."""

from rltelemetry.sinks.mlflow.alarm import Alarm
from rltelemetry.sinks.mlflow.answers import (
    NO_EXPERIMENT,
    NO_RUN,
    RunFacts,
    read_experiment,
    read_points,
    read_run,
    read_runs,
    read_trace_ids,
    run_page,
    trace_name,
)
from rltelemetry.sinks.mlflow.backoff import Breaker, Patience
from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.delivery import Delivery
from rltelemetry.sinks.mlflow.http import LOOPBACK
from rltelemetry.sinks.mlflow.lane import FOREVER
from rltelemetry.sinks.mlflow.ledger import Counts, Ledger
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict, transport_failure
from rltelemetry.sinks.mlflow.reader import SpoolReader, Waiting
from rltelemetry.sinks.mlflow.resolver import make_loop
from rltelemetry.sinks.mlflow.sink import MlflowSink
from rltelemetry.sinks.mlflow.spool import Spool
from rltelemetry.sinks.mlflow.storage import SpoolFile

__all__ = [
    "FOREVER",
    "LOOPBACK",
    "NO_EXPERIMENT",
    "NO_RUN",
    "Alarm",
    "Breaker",
    "Counts",
    "Delivery",
    "Ledger",
    "MlflowClient",
    "MlflowSink",
    "Outcome",
    "Patience",
    "RunFacts",
    "Spool",
    "SpoolFile",
    "SpoolReader",
    "Verdict",
    "Waiting",
    "make_loop",
    "read_experiment",
    "read_points",
    "read_run",
    "read_runs",
    "read_trace_ids",
    "run_page",
    "trace_name",
    "transport_failure",
]
