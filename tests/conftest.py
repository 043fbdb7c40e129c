"""What all tests share: a clean environment, and MLflow servers, real and fake."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from rltelemetry.testing import FakeMlflow, MlflowServer, RealMlflow

LEAKING = ("MLFLOW_", "OTEL_", "RLTELEMETRY_", "RUST_", "XDG_STATE_HOME", "NO_COLOR", "FORCE_COLOR")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(LEAKING):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[RealMlflow]:
    """A real `mlflow server`, one for each test process."""
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    with RealMlflow() as server:
        yield server


@pytest.fixture
def fake_mlflow() -> Iterator[FakeMlflow]:
    with FakeMlflow() as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.mlflow, pytest.mark.xdist_group("mlflow")])])
def any_mlflow(request: pytest.FixtureRequest) -> MlflowServer:
    """The fake and the real server in turn: the fake cannot drift."""
    server: MlflowServer = request.getfixturevalue(f"{'mlflow_server' if request.param == 'real' else 'fake_mlflow'}")
    return server
