"""`SummaryWriter`: what a script writes with TensorBoard's class is in MLflow, at TensorBoard's step and time."""

import inspect
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rltelemetry
from rltelemetry import Telemetry
from rltelemetry.compat import SummaryWriter
from rltelemetry.compat.tensorboard import UNSUPPORTED
from rltelemetry.testing import FakeMlflow, RunView


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def telemetry(fake_mlflow: FakeMlflow) -> Iterator[Telemetry]:
    with rltelemetry.configure(tracking_uri=fake_mlflow.uri, console="off", system_metrics=False) as opened:
        yield opened


@pytest.fixture
def stored(telemetry: Telemetry, fake_mlflow: FakeMlflow) -> Callable[[], dict[str, list[tuple[int, float]]]]:
    """Reads back, after a flush, the steps and values of every key."""

    def read() -> dict[str, list[tuple[int, float]]]:
        assert telemetry.wait_ready(10.0)
        assert telemetry.flush(10.0)
        found: dict[str, list[tuple[int, float]]] = {}
        for point in fake_mlflow.points(str(telemetry.run_id)):
            found.setdefault(point.key, []).append((point.step, point.value))
        return found

    return read


Stored = Callable[[], dict[str, list[tuple[int, float]]]]


def test_scalars_are_points_at_their_step(stored: Stored) -> None:
    writer = SummaryWriter("runs/a")
    for update in range(3):
        writer.add_scalar("losses/value_loss", 1.0 / (update + 1), 2048 * update)
        writer.add_scalar("charts/SPS", 1000 + update, global_step=2048 * update)
    assert stored() == {
        "trainer/value_loss": [(0, 1.0), (2048, 0.5), (4096, 1 / 3)],
        "misc/SPS": [(0, 1000.0), (2048, 1001.0), (4096, 1002.0)],
    }


def test_walltime_is_the_points_time(stored: Stored, telemetry: Telemetry, fake_mlflow: FakeMlflow) -> None:
    SummaryWriter("runs/a").add_scalar("x", 1.0, 1, walltime=1_700_000_000.5)
    stored()
    assert [point.timestamp_ms for point in fake_mlflow.points(str(telemetry.run_id))] == [1_700_000_000_500]


def test_numbers_of_every_kind_are_taken(stored: Stored) -> None:
    writer = SummaryWriter("runs/a")
    for step, value in enumerate([1, np.float32(2), np.array(3.0), np.array([4.0]), np.array([[5]])]):
        writer.add_scalar("x", value, np.int64(step))
    assert stored() == {"misc/x": [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)]}


def test_without_a_step_the_points_of_a_tag_are_numbered(stored: Stored) -> None:
    writer = SummaryWriter("runs/a")
    for value in (3.0, 4.0):
        writer.add_scalar("a", value)
    writer.add_scalar("b", 5.0)
    for value in (6.0, 7.0):
        writer.add_scalar("c", value, 0)
    assert stored() == {
        "misc/a": [(0, 3.0), (1, 4.0)],
        "misc/b": [(0, 5.0)],
        "misc/c": [(0, 6.0), (0, 7.0)],
    }


def test_scalars_of_one_tag_are_told_apart(stored: Stored) -> None:
    SummaryWriter("runs/a").add_scalars("losses", {"actor": 1.0, "critic": 2.0}, 7)
    assert stored() == {"trainer/actor": [(7, 1.0)], "trainer/critic": [(7, 2.0)]}


def test_nothing_that_is_written_raises(stored: Stored, telemetry: Telemetry) -> None:
    class Hostile:
        shape = (1,)

        def reshape(self, _shape: Any) -> Any:
            raise RuntimeError("hostile")

    writer = SummaryWriter("runs/a")
    writer.add_scalar("x", Hostile(), 1)
    writer.add_scalar("x", "text", 1)
    writer.add_scalar("x", np.ones(3), 1)
    writer.add_scalar("x", None, 1)
    writer.add_scalar("x", 1.0, 1.5)
    writer.add_scalar(None, 1.0, 1)  # type: ignore[arg-type]
    writer.add_scalar("x", 1.0, 2, walltime="yesterday")  # type: ignore[arg-type]
    writer.add_scalar("y", 1.0, 2)
    assert stored() == {"misc/y": [(2, 1.0)]}
    assert telemetry.stats().events_dropped == {"error": 1}


def test_hyperparameters_become_parameters(stored: Stored, telemetry: Telemetry, fake_mlflow: FakeMlflow) -> None:
    writer = SummaryWriter("runs/a")
    arguments = {"gamma": 0.99, "env_id": "CartPole-v1", "note": "a|b", "empty": ""}
    table = "\n".join(f"|{key}|{value}|" for key, value in arguments.items())
    writer.add_text("hyperparameters", f"|param|value|\n|-|-|\n{table}")
    writer.add_hparams({"lr": 1e-3, "bs": 64}, {"hparam/return": 12.0})
    assert stored() == {"misc/hparam/return": [(0, 12.0)]}
    params = fake_mlflow.run(str(telemetry.run_id)).params
    assert params == {**{key: str(value) for key, value in arguments.items()}, "lr": "0.001", "bs": "64"}


def test_other_text_is_an_event(stored: Stored, telemetry: Telemetry, fake_mlflow: FakeMlflow) -> None:
    text = "|a|b|\n|c|d|\n|e|f|"  # a table has a rule under its header
    SummaryWriter("runs/a").add_text("sample", text, 3)
    assert stored() == {}
    assert fake_mlflow.run(str(telemetry.run_id)).params == {}
    (trace,) = fake_mlflow.traces(telemetry.run_id)
    assert trace.root is not None
    assert (trace.root.name, trace.root.attributes["text"]) == ("sample", text.replace("\n", "\\n"))


def test_scalar_is_an_event_of_the_current_span_and_no_trace_without_one(
    stored: Stored, telemetry: Telemetry, fake_mlflow: FakeMlflow
) -> None:
    writer = SummaryWriter("runs/a")
    with telemetry.span("update"):
        writer.add_scalar("losses/value_loss", 0.5, 1)
    writer.add_scalar("losses/value_loss", 0.25, 2)
    assert stored() == {"trainer/value_loss": [(1, 0.5), (2, 0.25)]}
    (trace,) = fake_mlflow.traces(telemetry.run_id)
    assert trace.root is not None
    assert [event.attributes["value_loss"] for event in trace.root.events] == [0.5]


def lines_shown(
    fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str], script: Callable[[SummaryWriter], None]
) -> list[dict[str, Any]]:
    with rltelemetry.configure(tracking_uri=fake_mlflow.uri, console="json", exit_timeout_s=20.0):
        script(SummaryWriter("runs/a"))
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_console_stays_quiet(fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_shown(fake_mlflow, capsys, lambda writer: writer.add_scalar("losses/value_loss", 0.5, 1))
    assert {line["logger"] for line in lines} == {"rltelemetry"}


def test_level_filter_decides(fake_mlflow: FakeMlflow) -> None:
    quiet = {"tracking_uri": fake_mlflow.uri, "console": "off", "system_metrics": False}
    with rltelemetry.configure(**quiet, log_filter="info,summary_writer=off") as telemetry:
        SummaryWriter("runs/a").add_scalar("x", 1.0, 1)
        assert telemetry.wait_ready(10.0)
    assert fake_mlflow.points(str(telemetry.run_id)) == []


def only_run(server: FakeMlflow) -> RunView:
    (run,) = server.runs()
    return run


def test_script_without_configure_gets_a_run_that_is_named_after_its_directory(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_mlflow.uri)
    monkeypatch.setenv("RLTELEMETRY_EXIT_TIMEOUT_S", "20")
    monkeypatch.setattr("sys.argv", ["/somewhere/my_ppo.py"])
    writer = SummaryWriter("runs/CartPole__1")
    writer.add_scalar("charts/episodic_return", 21.0, 100)
    writer.close()
    run = only_run(fake_mlflow)
    assert (run.name, run.status, run.tags["rltelemetry.service"]) == ("CartPole__1", "FINISHED", "my_ppo")
    assert [point.key for point in fake_mlflow.points(run.run_id)][:1] == ["actor/episodic_return"]
    assert writer.get_logdir() == writer.log_dir == "runs/CartPole__1"
    assert (tmp_path / "runs" / "CartPole__1").is_dir()


def test_environment_names_the_run_before_the_directory_does(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_mlflow.uri)
    monkeypatch.setenv("MLFLOW_RUN_NAME", "mine")
    monkeypatch.setenv("RLTELEMETRY_EXIT_TIMEOUT_S", "20")
    writer = SummaryWriter()
    assert writer.log_dir.startswith("runs/")
    with pytest.raises(ZeroDivisionError), writer:
        _ = 1 / 0
    run = only_run(fake_mlflow)
    assert (run.name, run.status) == ("mine", "FAILED")


def test_pipeline_of_somebody_else_is_left_open(telemetry: Telemetry, stored: Stored) -> None:
    with SummaryWriter("runs/a") as writer:
        writer.add_scalar("x", 1.0, 1)
    writer.close()
    SummaryWriter("runs/b").add_scalar("x", 2.0, 2)
    assert stored() == {"misc/x": [(1, 1.0), (2, 2.0)]}


def test_flush_does_not_wait_for_the_server(fake_mlflow: FakeMlflow) -> None:
    with rltelemetry.configure(tracking_uri="http://127.0.0.1:9", console="off", exit_timeout_s=0.0):
        writer = SummaryWriter("runs/a")
        writer.add_scalar("x", 1.0, 1)
        began = time.monotonic()
        writer.flush()
        assert time.monotonic() - began < 1.0
    writer.flush()


def test_what_mlflow_has_no_view_for_is_said_once(fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]) -> None:
    def script(writer: SummaryWriter) -> None:
        for method in UNSUPPORTED * 3:
            getattr(writer, method)("tag", np.ones(3), 1)

    said = [line["event"] for line in lines_shown(fake_mlflow, capsys, script) if line["level"] == "warning"]
    assert said == [f"SummaryWriter.{method} has no counterpart in MLflow and does nothing" for method in UNSUPPORTED]


def test_face_is_that_of_the_real_class() -> None:
    real = pytest.importorskip("torch.utils.tensorboard", reason="TensorBoard and torch are not installed")
    for name, method in inspect.getmembers(real.SummaryWriter, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        ours = getattr(SummaryWriter, name)
        if name not in UNSUPPORTED:
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(method).parameters), name


def test_real_class_and_ours_write_the_same_numbers(stored: Stored, tmp_path: Path) -> None:
    """The same script, on the real writer and on ours; the real one's file is read with TensorBoard's own reader."""
    real = pytest.importorskip("torch.utils.tensorboard", reason="TensorBoard and torch are not installed")
    torch = pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def script(writer: Any) -> None:
        for step in range(5):
            writer.add_scalar("charts/return", torch.tensor(step / 3), step * 100)
            writer.add_scalar("charts/length", np.array([step]), step * 100)
        writer.add_scalar("charts/count", 2**20, 7)
        writer.flush()
        writer.close()

    script(real.SummaryWriter(str(tmp_path / "real")))
    script(SummaryWriter("runs/a"))
    accumulator = EventAccumulator(str(tmp_path / "real"))
    accumulator.Reload()
    expected = {
        f"misc/{tag.removeprefix('charts/')}": [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
    ours = {key: [(step, float(np.float32(value))) for step, value in series] for key, series in stored().items()}
    assert ours == expected
