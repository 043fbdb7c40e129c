"""What a stream works with on the way from the spool to the server."""

from typing import NamedTuple

from rltelemetry.notices import Notices
from rltelemetry.sinks.mlflow.backoff import Breaker, Patience
from rltelemetry.sinks.mlflow.client import MlflowClient
from rltelemetry.sinks.mlflow.destination import Destination
from rltelemetry.sinks.mlflow.spool import Spool

__all__ = ["Way"]


class Way(NamedTuple):
    """From where to where.

    Attributes:
        spool: what waits.
        client: the server.
        run: where it belongs.
        notices: where trouble is said.
        breaker: when this stream may be tried.
        patience: how long a request of it may take.
    """

    spool: Spool
    client: MlflowClient
    run: Destination
    notices: Notices
    breaker: Breaker
    patience: Patience
