"""A process that continues a run: what the run has already, and what must be safe before a checkpoint is."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry import Settings, Telemetry
from rltelemetry.resumption import last_steps, stored_steps
from rltelemetry.sinks.mlflow.history import spooled_steps
from rltelemetry.testing import FakeMlflow, MlflowServer

NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens

Configure = Callable[..., Telemetry]


@pytest.fixture
def configure(tmp_path: Path) -> Iterator[Configure]:
    opened: list[Telemetry] = []

    def make(uri: str, **fields: Any) -> Telemetry:
        quiet = {"console": "off", "system_metrics": False, "spool_dir": tmp_path, "exit_timeout_s": 2.0}
        opened.append(rltelemetry.configure(tracking_uri=uri, **{**quiet, **fields}))
        return opened[-1]

    yield make
    for telemetry in opened:
        telemetry.close()


def log(step: int, *categories: str) -> None:
    for category in categories:
        structlog.get_logger().info("e", category=category, value=float(step), timesteps=step)


def test_last_step_is_the_largest_of_each_category() -> None:
    points = [("trainer/a", 3), ("trainer/b", 5), ("actor/a", 4), ("trainer/a", 1)]
    assert last_steps(points) == {"trainer": 5, "actor": 4}
    assert last_steps([]) == {}


def test_committed_events_are_in_the_spool_at_once(configure: Configure, tmp_path: Path) -> None:
    with configure(NOWHERE, exit_timeout_s=0.0) as telemetry:
        log(7, "TRAINER")
        assert telemetry.commit(10.0)
        assert spooled_steps(tmp_path, None, telemetry.client_uuid) == {"trainer": 7}


def test_commit_does_not_wait_for_the_server_nor_longer_than_it_may(configure: Configure) -> None:
    with configure(NOWHERE, exit_timeout_s=0.0) as telemetry:
        assert telemetry.commit(10.0)
        assert not telemetry.commit(0.0)


def test_commit_without_a_disk_does_not_say_that_it_is_done(configure: Configure, tmp_path: Path) -> None:
    no_directory = tmp_path / "file"
    no_directory.write_text("in the way")
    with configure(NOWHERE, exit_timeout_s=0.0, spool_dir=no_directory) as telemetry:
        log(7, "TRAINER")
        assert not telemetry.commit(10.0)


def test_spool_remembers_steps_that_it_has_sent(configure: Configure, fake_mlflow: FakeMlflow, tmp_path: Path) -> None:
    with configure(fake_mlflow.uri) as telemetry:
        log(3, "TRAINER", "ACTOR")
        log(4, "TRAINER")
        assert telemetry.flush(10.0)
        assert telemetry.stats().points_kept == 0
        assert spooled_steps(tmp_path, telemetry.run_id, None) == {"trainer": 4, "actor": 3}


def test_other_runs_and_foreign_files_do_not_count(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "foreign.spool").write_bytes(b"no database")
    with configure(NOWHERE, exit_timeout_s=0.0) as telemetry:
        log(7, "TRAINER")
        telemetry.commit(10.0)
        assert spooled_steps(tmp_path, "another", "another") == {}
        assert spooled_steps(tmp_path, None, None) == {}
        assert spooled_steps(tmp_path / "nowhere", None, telemetry.client_uuid) == {}


def test_server_and_spools_are_asked_together(configure: Configure, any_mlflow: MlflowServer, tmp_path: Path) -> None:
    with configure(any_mlflow.uri) as telemetry:
        log(5, "TRAINER")
        assert telemetry.flush(30.0)
        run_id, client_uuid = telemetry.run_id, telemetry.client_uuid
    with configure(NOWHERE, run_id=run_id, client_uuid=client_uuid, exit_timeout_s=0.0) as telemetry:
        log(9, "ACTOR")
        telemetry.commit(10.0)
        there = Settings(tracking_uri=any_mlflow.uri, spool_dir=tmp_path)
        assert stored_steps(there, run_id, client_uuid, 30.0) == {"trainer": 5, "actor": 9}
        away = Settings(tracking_uri=NOWHERE, spool_dir=tmp_path)
        assert stored_steps(away, run_id, client_uuid) == {"actor": 9}, "a spool that is spent is gone"


def test_server_that_is_away_or_does_not_know_the_run_is_no_error(fake_mlflow: FakeMlflow, tmp_path: Path) -> None:
    for uri in (NOWHERE, fake_mlflow.uri):
        assert stored_steps(Settings(tracking_uri=uri, spool_dir=tmp_path), "unknown") == {}


def test_second_process_goes_on_in_the_run_by_its_clients_own_name(
    configure: Configure, fake_mlflow: FakeMlflow
) -> None:
    with configure(fake_mlflow.uri) as first:
        log(1, "TRAINER")
        assert first.wait_ready(10.0)
    with configure(fake_mlflow.uri, client_uuid=first.client_uuid) as second:
        log(2, "TRAINER")
        assert second.wait_ready(10.0)
        (running,) = fake_mlflow.runs()
    assert second.client_uuid == first.client_uuid
    assert running.status == "RUNNING"
    (run,) = fake_mlflow.runs()
    assert [point.step for point in fake_mlflow.points(run.run_id)] == [1, 2]


def test_system_metrics_of_a_continued_run_go_on_counting(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    pytest.importorskip("psutil")
    fields = {"system_metrics": True, "system_metrics_interval_s": 0.01, "system_metrics_first_step": 40}
    with configure(fake_mlflow.uri, **fields) as telemetry:
        assert telemetry.wait_ready(10.0)
        while telemetry.stats().points_extracted == 0:
            telemetry.commit(1.0)
    (run,) = fake_mlflow.runs()
    assert min(point.step for point in fake_mlflow.points(run.run_id)) == 40


def test_telemetry_leaves_the_global_generator_alone_and_seeds_decide_no_trace_id(
    configure: Configure, fake_mlflow: FakeMlflow
) -> None:
    ids = []
    for _ in range(2):
        random.seed(1)
        state = random.getstate()
        with configure(fake_mlflow.uri) as telemetry:
            for update in range(3):
                with telemetry.span("update", update=update) as span:
                    log(update, "TRAINER")
                    ids.append(span.get_span_context().trace_id)
            assert telemetry.flush(10.0)
        assert random.getstate() == state
    assert len(set(ids)) == 6
