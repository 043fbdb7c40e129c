"""Artifacts of a run: they arrive, they wait like everything else, and nobody waits for them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry import Telemetry
from rltelemetry.cli import main
from rltelemetry.testing import FakeMlflow, MlflowServer, ToxicProxy

PATIENCE_S = 60.0


def configure(uri: str, **fields: Any) -> Telemetry:
    quiet = {"console": "json", "system_metrics": False, "traces": False, "exit_timeout_s": PATIENCE_S}
    return rltelemetry.configure(tracking_uri=uri, **{**quiet, **fields})


def test_texts_and_files_arrive_under_their_names(any_mlflow: MlflowServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "weights.bin").write_bytes(content)
    with configure(any_mlflow.uri) as telemetry:
        telemetry.log_text("gamma: 0.99\nname: ü\n", "config.yaml")
        telemetry.log_artifact(tmp_path / "weights.bin", "checkpoints/last.bin")
    run_id = str(telemetry.run_id)
    assert any_mlflow.artifact(run_id, "config.yaml") == "gamma: 0.99\nname: ü\n".encode()
    assert any_mlflow.artifact(run_id, "checkpoints/last.bin") == content


def test_what_comes_after_a_long_rest_arrives_before_the_end(fake_mlflow: FakeMlflow) -> None:
    with configure(fake_mlflow.uri, flush_interval_s=0.1) as telemetry:
        assert telemetry.wait_ready(PATIENCE_S)
        time.sleep(1.0)  # both lanes have looked, found nothing, and sleep
        telemetry.log_text("late", "late.txt")
        telemetry.set_tags({"late": "yes"})
        run_id, deadline = str(telemetry.run_id), time.monotonic() + PATIENCE_S
        while fake_mlflow.artifact(run_id, "late.txt") is None or "late" not in fake_mlflow.run(run_id).tags:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_later_text_of_a_name_replaces_the_earlier_and_a_removed_one_is_gone(any_mlflow: MlflowServer) -> None:
    with configure(any_mlflow.uri) as telemetry:
        for text in ("first", "second"):
            telemetry.log_text(text, "curve.svg")
        telemetry.log_text("old", "checkpoints/1")
        telemetry.remove_artifact("checkpoints/1")
        telemetry.remove_artifact("checkpoints/never-was-there")
        telemetry.log_text("behind it", "last")
    run_id = str(telemetry.run_id)
    assert any_mlflow.artifact(run_id, "curve.svg") == b"second"
    assert any_mlflow.artifact(run_id, "checkpoints/1") is None
    assert any_mlflow.artifact(run_id, "last") == b"behind it"


def test_secrets_of_a_text_stay_here(any_mlflow: MlflowServer) -> None:
    with configure(any_mlflow.uri) as telemetry:
        telemetry.log_text("uri: http://ada:s3cret@host\n", "config.yaml")
    assert any_mlflow.artifact(str(telemetry.run_id), "config.yaml") == b"uri: http://***@host\n"


@pytest.mark.mlflow
def test_artifacts_of_a_run_without_a_server_are_sent_later(
    mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = mlflow_server.create_experiment(f"artifacts {time.time_ns()}")
    for name in ("kept", "rotated"):
        (tmp_path / name).write_text(name)
    with ToxicProxy(mlflow_server.uri) as proxy:
        proxy.stop()
        with configure(proxy.uri, experiment_id=experiment, exit_timeout_s=1.0) as telemetry:
            telemetry.log_text("a text needs no file", "text")
            for name in ("rotated", "kept"):
                telemetry.log_artifact(tmp_path / name)
        (tmp_path / "rotated").unlink()
        proxy.start()
        assert main(["sync"]) == 0
    (run,) = mlflow_server.runs(experiment)
    assert run.status == "FINISHED"
    assert mlflow_server.artifact(run.run_id, "text") == b"a text needs no file"
    assert mlflow_server.artifact(run.run_id, "kept") == b"kept"
    assert mlflow_server.artifact(run.run_id, "rotated") is None
    said = capsys.readouterr().out
    assert f"its file is gone: {tmp_path / 'rotated'}" in said


@pytest.mark.mlflow
def test_upload_over_a_thin_line_holds_up_neither_the_training_nor_the_points_nor_the_end(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    experiment = mlflow_server.create_experiment(f"artifacts {time.time_ns()}")
    content = bytes(4_000_000)
    (tmp_path / "weights.bin").write_bytes(content)
    with ToxicProxy(mlflow_server.uri) as proxy:
        proxy.bytes_per_s = 50_000
        telemetry = configure(proxy.uri, experiment_id=experiment, exit_timeout_s=3.0)
        assert telemetry.wait_ready(PATIENCE_S)
        proxy.set_mode("rate")
        began = time.perf_counter()
        telemetry.log_artifact(tmp_path / "weights.bin")
        assert time.perf_counter() - began < 0.1
        structlog.get_logger().info("train", loss=0.5, step=1)
        began = time.perf_counter()
        telemetry.close()
        assert time.perf_counter() - began < 3.0 + 1.0
        proxy.set_mode("pass")
        proxy.drop_connections()
        assert [point.value for point in mlflow_server.points(str(telemetry.run_id), "misc/loss")] == [0.5]
        assert mlflow_server.artifact(str(telemetry.run_id), "weights.bin") is None
        assert main(["sync"]) == 0
    assert mlflow_server.artifact(str(telemetry.run_id), "weights.bin") == content


def test_text_that_is_none_harms_nobody(any_mlflow: MlflowServer) -> None:
    with configure(any_mlflow.uri) as telemetry:
        telemetry.log_text(5, "number")  # type: ignore[arg-type]
        telemetry.log_text("\ud800", "half a character")
    assert any_mlflow.artifact(str(telemetry.run_id), "number") == b"5"


@pytest.mark.mlflow
def test_no_name_reaches_out_of_its_run_or_takes_all_of_it(
    mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("file")
    with configure(mlflow_server.uri) as victim:
        victim.log_text("precious", "model.txt")
    with configure(mlflow_server.uri) as telemetry:
        telemetry.log_text("mine", "kept.txt")
        assert telemetry.flush(PATIENCE_S)
        other = f"../../{victim.run_id}/artifacts/model.txt"
        telemetry.log_text("..", other)
        telemetry.log_artifact(tmp_path / "file", other)
        for name in (other, "../../", "", ".", "%2e", "?", other):
            telemetry.remove_artifact(name)
        telemetry.log_artifact(tmp_path / "file", "")
        assert telemetry.flush(PATIENCE_S)
    run_id, said = str(telemetry.run_id), capsys.readouterr().err
    assert mlflow_server.artifact(str(victim.run_id), "model.txt") == b"precious"
    assert mlflow_server.artifact(run_id, "kept.txt") == b"mine"
    assert mlflow_server.artifact(run_id, "file") == b"file"
    assert f"log_text: got '{other}'; expected a path below the run's artifacts, such as 'plots/returns.svg'" in said
    calls = ("log_text", "log_artifact", "remove_artifact")
    assert [said.count(f"{call}: got") for call in calls] == [1, 1, 6]
    assert "leads out of the run" not in said  # nothing has come as far as the client


@pytest.mark.mlflow
def test_artifact_that_cannot_be_stored_holds_up_no_other(
    mlflow_server: MlflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(mlflow_server.uri) as telemetry:
        telemetry.log_text("1", "results")
        telemetry.log_text("2", "results/final.txt")
        telemetry.log_text("3", "last")
        assert telemetry.wait_ready(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while mlflow_server.artifact(str(telemetry.run_id), "last") is None:
            assert time.monotonic() < deadline
            telemetry.flush(1.0)
    assert "refuses an artifact for good" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["/tmp/" + "x" * 300, "fifo", b"\xff.txt"], ids=["too long", "pipe", "no unicode"])
def test_file_with_a_bad_name_or_nature_costs_nothing_else(
    fake_mlflow: FakeMlflow, tmp_path: Path, bad: str | bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(bad))  # noqa: PTH118
    if bad == "fifo":
        os.mkfifo(path)
    elif isinstance(bad, bytes):
        Path(os.fsdecode(path)).write_text("hi")
    with configure(fake_mlflow.uri) as telemetry:
        telemetry.log_artifact(path)  # type: ignore[arg-type]
        telemetry.log_text("behind it", "last")
        structlog.get_logger().info("train", loss=0.5, step=1)
        assert telemetry.flush(PATIENCE_S)
    run_id = str(telemetry.run_id)
    assert [point.value for point in fake_mlflow.points(run_id, "misc/loss")] == [0.5]
    assert fake_mlflow.artifact(run_id, "last") == b"behind it"
    if isinstance(bad, bytes):
        assert fake_mlflow.artifact(run_id, "\N{REPLACEMENT CHARACTER}.txt") == b"hi"
