"""An MLflow server inside the test's own process, as the real one was measured to behave.

app: security and routes -> runs, traces: what is stored -> messages: how a body is read. `server` puts it on a port.
"""

from rltelemetry.testing.fake_mlflow.server import FakeMlflow

__all__ = ["FakeMlflow"]
