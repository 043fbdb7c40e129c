"""What the trainers' tests share: one thread, and a telemetry that only takes notes."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch

from trainers.envs import EnvGroup

torch.set_num_threads(1)  # as the trainers do: more threads slow small networks, and tests run side by side


class FakeTelemetry:
    """Notes what a run does with the telemetry."""

    run_id, client_uuid = "run-1", "client-1"
    run_url: str | None = None

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.params: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}
        self.note = ""
        self.artifacts: list[str] = []
        self.ended_by: list[object] = []

    def configure(self, **fields: Any) -> "FakeTelemetry":
        self.fields = fields
        return self

    def log_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_tags(self, tags: dict[str, Any]) -> None:
        self.tags = tags

    def describe(self, text: str) -> None:
        self.note = text

    def log_text(self, text: str, name: str) -> None:
        self.artifacts.append(name)

    def log_artifact(self, path: object, name: str) -> None:
        self.artifacts.append(name)

    def remove_artifact(self, name: str) -> None:
        self.artifacts.remove(name)

    def wait_ready(self, timeout_s: float) -> bool:
        return timeout_s >= 0

    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def show_progress(self, text: str) -> None:
        pass

    def commit(self, timeout_s: float) -> bool:
        return True

    def __enter__(self) -> "FakeTelemetry":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ended_by.append(error.code if isinstance(error, SystemExit) else error)


@pytest.fixture(autouse=True)
def not_compiled() -> Iterator[list[str]]:
    """What torch was asked to compile and could not: nothing, or a test expects it and takes it out."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    listener = Listener()
    logger = logging.getLogger("trainers.compilation")
    logger.addHandler(listener)
    yield told
    logger.removeHandler(listener)
    assert told == []


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without inductor, which would take a minute: what is traced is what would be compiled."""
    real_compile = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, **_how: real_compile(function, fullgraph=True, dynamic=False, backend="aot_eager"),
    )


@pytest.fixture
def without_sync() -> Callable[[], AbstractContextManager[None]]:
    """A context in which nothing may wait for the GPU."""

    @contextmanager
    def refused() -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remark that it may not see every wait
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return refused


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> FakeTelemetry:
    """The telemetry of commands that a test calls."""
    fake = FakeTelemetry()
    monkeypatch.setattr("rltelemetry.configure", fake.configure)
    return fake


@pytest.fixture
def open_envs(monkeypatch: pytest.MonkeyPatch) -> list[EnvGroup]:
    """The environments that have been made during the test and are not closed yet."""
    still_open: list[EnvGroup] = []
    make, close = EnvGroup.__init__, EnvGroup.close

    def made(self: EnvGroup, *parts: Any, **further: Any) -> None:
        make(self, *parts, **further)
        still_open.append(self)

    def closed(self: EnvGroup) -> None:
        close(self)
        if self in still_open:
            still_open.remove(self)

    monkeypatch.setattr(EnvGroup, "__init__", made)
    monkeypatch.setattr(EnvGroup, "close", closed)
    return still_open
