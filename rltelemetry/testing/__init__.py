"""Parts to test telemetry with: an MLflow inside the test, a network that fails on command, a clock in the hand.

`FakeMlflow` answers as a real server was measured to answer, `RealMlflow` is a real server; both are `MlflowServer`s,
so one test can run on either. `ToxicProxy` breaks the way to any of them, `SshServer` leads it through a real tunnel.
`captured` collects what a block logs.
"""

from rltelemetry.testing.clock import FakeClock
from rltelemetry.testing.exchange import Answer, Request, send
from rltelemetry.testing.fake_mlflow import FakeMlflow
from rltelemetry.testing.mlflow_server import MlflowServer, RunView, SpanEventView, SpanView, TraceView
from rltelemetry.testing.real_mlflow import RealMlflow
from rltelemetry.testing.records import Captured, RecordingSink, captured
from rltelemetry.testing.ssh_server import SshServer, Tunnel
from rltelemetry.testing.toxic_proxy import ToxicProxy

__all__ = [
    "Answer",
    "Captured",
    "FakeClock",
    "FakeMlflow",
    "MlflowServer",
    "RealMlflow",
    "RecordingSink",
    "Request",
    "RunView",
    "SpanEventView",
    "SpanView",
    "SshServer",
    "ToxicProxy",
    "TraceView",
    "Tunnel",
    "captured",
    "send",
]
