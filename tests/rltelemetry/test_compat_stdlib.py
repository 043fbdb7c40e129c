"""`LogHandler`: records of the standard library are events of the pipeline, once each, and shown by who showed them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import rltelemetry
from rltelemetry import Telemetry
from rltelemetry.compat import LogHandler
from rltelemetry.handoff import CELL, Handoff, Snapshot
from rltelemetry.spans import add_foreign_event
from rltelemetry.testing import FakeMlflow


class ListHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def own_handler() -> Iterator[ListHandler]:
    """The program's own handler on the root logger, there before the pipeline opens."""
    root, handler = logging.getLogger(), ListHandler()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    yield handler
    root.handlers[:] = handlers
    root.setLevel(level)


def configure(server: FakeMlflow, **fields: Any) -> Telemetry:
    quiet = {"tracking_uri": server.uri, "console": "json", "system_metrics": False, "exit_timeout_s": 20.0}
    return rltelemetry.configure(**{**quiet, **fields})


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("my_trainer.inner")
    yield logger
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line["logger"] != "rltelemetry"]


def test_numbers_in_extra_are_points_and_the_own_handler_goes_on(
    own_handler: ListHandler, fake_mlflow: FakeMlflow, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(fake_mlflow) as telemetry:
        logging.getLogger().addHandler(LogHandler())
        logger.info("update %d", 7, extra={"category": "TRAINER", "critic_loss": 0.5, "timesteps": 100})
    points = fake_mlflow.points(str(telemetry.run_id))
    assert [(point.key, point.value, point.step) for point in points] == [("trainer/critic_loss", 0.5, 100)]
    (trace,) = fake_mlflow.traces(telemetry.run_id)
    assert trace.root is not None
    assert trace.root.name == "update 7"
    assert own_handler.messages[-1] == "update 7"
    assert shown(capsys) == []


def test_console_shows_records_where_it_is_asked_to(
    own_handler: ListHandler, fake_mlflow: FakeMlflow, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(fake_mlflow):
        logger.addHandler(LogHandler(console=True))
        logger.warning("seen")
    assert shown(capsys) == ["seen"]


def test_record_that_comes_by_the_pipelines_own_handler_is_taken_once(
    fake_mlflow: FakeMlflow,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with configure(fake_mlflow) as telemetry:
        logger.addHandler(LogHandler())
        logger.warning("once")
        logger.propagate = False
        logger.warning("not on its way up")
    assert shown(capsys) == ["once"]
    assert telemetry.stats().events_processed == 2


def test_stack_of_a_record_is_a_field(own_handler: ListHandler, logger: logging.Logger) -> None:
    CELL.active = handoff = Handoff(64, 1 << 20, set(), add_foreign_event)
    logger.addHandler(LogHandler())
    logger.warning("where", stack_info=True)
    logger.warning("nowhere")
    where, nowhere = (Snapshot._make(item).fields for item in handoff.queue)
    assert "test_stack_of_a_record_is_a_field" in where["stack"]
    assert nowhere == {}


def test_level_filter_decides(own_handler: ListHandler, fake_mlflow: FakeMlflow, logger: logging.Logger) -> None:
    with configure(fake_mlflow, log_filter="info,my_trainer.inner=error") as telemetry:
        logger.addHandler(LogHandler())
        logger.warning("hidden")
        logger.error("taken")
    assert telemetry.stats().events_processed == 1


def test_without_a_pipeline_a_record_goes_nowhere(own_handler: ListHandler, logger: logging.Logger) -> None:
    logger.addHandler(LogHandler())
    logger.warning("nobody listens")
    assert own_handler.messages == ["nobody listens"]
