"""What tests share: a clean environment for each, and MLflow servers, the fake one and one real one for them all.

The real server takes seconds to start. Under pytest-xdist the workers ask the controlling process for it, through
files in a directory that all of them know; it starts the server when the first one asks, and stops it at the end.
"""

import importlib.util
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from rltelemetry.channels import LEVELS, set_thresholds
from rltelemetry.handoff import CELL
from rltelemetry.testing import Answer, FakeMlflow, MlflowServer, RealMlflow, SshServer, send
from rltelemetry.testing.ssh_server import missing_programs

FOREIGN_PREFIXES = ("MLFLOW_", "OTEL_", "RLTELEMETRY_")
FOREIGN_NAMES = (
    *("RUST_LOG", "RUST_RL_METRIC_LABELS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
START_S = 150.0

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
hypothesis.settings.load_profile("untimed")


class SharedMlflow(MlflowServer):
    """The one real server of a test run, wherever it was started."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @property
    def uri(self) -> str:
        return self._uri

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        return send(self._uri, method, path, body)


class Starter:
    """Starts the server when somebody asks for it; lives in the process that outlives all tests."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shared-mlflow-")
        self.directory = Path(self._directory.name)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared-mlflow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._directory.cleanup()

    def _run(self) -> None:
        while not (self.directory / "wanted").exists():
            if self._is_over.wait(0.05):
                return
        server = RealMlflow(self.directory)
        try:
            server.start()
            answer = self.directory / "answer.new"
            answer.write_text(server.uri)
            answer.rename(self.directory / "answer")
            self._is_over.wait()
        except RuntimeError as error:
            (self.directory / "failure").write_text(str(error))
        finally:
            server.stop()


STARTER = pytest.StashKey[Starter]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[STARTER] = Starter()


def pytest_unconfigure(config: pytest.Config) -> None:
    if STARTER in config.stash:
        config.stash[STARTER].close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server while the first tests run, if any of those that were chosen needs it."""
    is_needed = any(
        item.get_closest_marker("mlflow") or "mlflow_server" in getattr(item, "fixturenames", ())
        for item in session.items
    )
    if is_needed and importlib.util.find_spec("mlflow") is not None and not session.config.option.collectonly:
        (shared_directory(session.config) / "wanted").touch()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["shared_mlflow"] = str(node.config.stash[STARTER].directory)


def shared_directory(config: pytest.Config) -> Path:
    shared = getattr(config, "workerinput", {}).get("shared_mlflow")
    return Path(shared) if shared else config.stash[STARTER].directory


@pytest.fixture(scope="session")
def mlflow_server(request: pytest.FixtureRequest) -> MlflowServer:
    """The real server of this test run: make runs and experiments of your own in it."""
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: pip install 'rltelemetry[mlflow]'")
    directory = shared_directory(request.config)
    (directory / "wanted").touch()
    deadline = time.monotonic() + START_S
    while not (directory / "answer").exists():
        failure = directory / "failure"
        assert not failure.exists(), failure.read_text()
        assert time.monotonic() < deadline, "the MLflow server did not start in time"
        time.sleep(0.05)
    return SharedMlflow((directory / "answer").read_text())


@pytest.fixture
def fake_mlflow() -> Iterator[FakeMlflow]:
    """A fake server of one's own."""
    with FakeMlflow() as server:
        yield server


@pytest.fixture(scope="module")
def ssh_server() -> Iterator[SshServer]:
    """A real sshd on loopback."""
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install openssh-server openssh-client)")
    with SshServer() as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mlflow)])
def any_mlflow(request: pytest.FixtureRequest) -> MlflowServer:
    """The fake server, and then the real one."""
    server: MlflowServer = request.getfixturevalue("fake_mlflow" if request.param == "fake" else "mlflow_server")
    return server


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path) -> Iterator[None]:
    """Hide the developer's settings from each test, and put back what a test has set."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES) or name in FOREIGN_NAMES:
            del os.environ[name]
    os.environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    yield
    current = os.environ.pop("PYTEST_CURRENT_TEST", None)
    os.environ.clear()
    os.environ.update(before)
    if current is not None:
        os.environ["PYTEST_CURRENT_TEST"] = current


@pytest.fixture(autouse=True)
def structlog_left_as_found() -> Iterator[None]:
    """Take away what a test has opened, filtered or bound, however it ended."""
    fallback = CELL.fallback
    yield
    CELL.active, CELL.fallback = None, fallback
    set_thresholds(lambda _name: LEVELS["info"])
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
