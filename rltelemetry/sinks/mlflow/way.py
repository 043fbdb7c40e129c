"""What every stream works with on the way from the spool to the server."""

from typing import NamedTuple

from rltelemetry.notices import Notices
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
    """

    spool: Spool
    client: MlflowClient
    run: Destination
    notices: Notices
