"""The MLflow sink: points and traces -> spool (sqlite) -> client (httpx)."""

from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.delivery import Delivery, RunIdentity
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.resolver import make_loop
from rltelemetry.sinks.mlflow.sink import MlflowSink, PointCounts
from rltelemetry.sinks.mlflow.spool import Spool

__all__ = [
    "Delivery",
    "MlflowClient",
    "MlflowSink",
    "Outcome",
    "PointCounts",
    "RunIdentity",
    "Spool",
    "Verdict",
    "make_loop",
]
