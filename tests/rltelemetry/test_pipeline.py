"""`configure` and `Telemetry`: what the program holds, in one process with a server in reach."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry import SettingsError, Telemetry
from rltelemetry.testing import FakeMlflow

Configure = Callable[..., Telemetry]


@pytest.fixture
def configure(fake_mlflow: FakeMlflow) -> Iterator[Configure]:
    """`rltelemetry.configure` on the fake server; what the test leaves open is closed."""
    opened: list[Telemetry] = []

    def make(**fields: Any) -> Telemetry:
        quiet = {"tracking_uri": fake_mlflow.uri, "console": "off", "system_metrics": False, "exit_timeout_s": 2.0}
        opened.append(rltelemetry.configure(**{**quiet, **fields}))
        return opened[-1]

    yield make
    for telemetry in opened:
        telemetry.close()


def values(server: FakeMlflow, run_id: str | None) -> dict[str, list[tuple[int, float]]]:
    assert run_id is not None
    found: dict[str, list[tuple[int, float]]] = {}
    for point in server.points(run_id):
        found.setdefault(point.key, []).append((point.step, point.value))
    return found


def test_argument_that_is_none_leaves_given_settings_alone(fake_mlflow: FakeMlflow) -> None:
    given = rltelemetry.Settings(tracking_uri=fake_mlflow.uri, console="off", run_name="given")
    with rltelemetry.configure(given, tracking_uri=None, run_name=None) as telemetry:
        assert telemetry.wait_ready(20)
    assert [run.name for run in fake_mlflow.runs()] == ["given"]


def test_one_call_becomes_a_point_an_event_and_a_line(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(console="dashboard") as telemetry, telemetry.span("update", update=1):
        structlog.get_logger().info("train", category="TRAINER", critic_loss=0.5, timesteps=100)
    assert values(fake_mlflow, telemetry.run_id) == {"trainer/critic_loss": [(100, 0.5)]}
    (trace,) = fake_mlflow.traces(telemetry.run_id)
    assert trace.root is not None
    assert [(event.name, event.attributes["critic_loss"]) for event in trace.root.events] == [("train", 0.5)]
    assert "TRAINER    train  Critic Loss: 0.5 | Timesteps: 100" in capsys.readouterr().err


def test_run_page_has_parameters_tags_name_and_address(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure(run_name="first", service_name="svc", tags={"algo": "ppo"}) as telemetry:
        telemetry.log_params({"gamma": 0.99, "net": {"hidden": [64, 64], "empty": {}}, "api_key": "s3cret"})
        telemetry.set_tags({"task": "CartPole-v1"})
        assert telemetry.wait_ready(10.0)
    run = fake_mlflow.run(str(telemetry.run_id))
    assert run.params == {"gamma": "0.99", "net.hidden": "[64, 64]", "net.empty": "{}", "api_key": "***"}
    assert run.name == "first"
    expected = {"algo": "ppo", "task": "CartPole-v1", "rltelemetry.service": "svc", "mlflow.source.type": "LOCAL"}
    assert expected.items() <= run.tags.items()
    assert telemetry.run_url == f"{fake_mlflow.uri}/#/experiments/0/runs/{telemetry.run_id}"


def test_given_run_is_carried_on(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    run_id = fake_mlflow.create_run("earlier")
    with configure(run_id=run_id) as telemetry:
        structlog.get_logger().info("x", loss=1.0, step=1)
    assert telemetry.run_id == run_id
    assert values(fake_mlflow, run_id) == {"misc/loss": [(1, 1.0)]}
    assert len(fake_mlflow.runs()) == 1


def test_refused_run_switches_metrics_off_with_one_warning_and_traces_go_on(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(run_id="0" * 32, console="dashboard") as telemetry:
        assert not telemetry.wait_ready(10.0)
        with telemetry.span("update"):
            structlog.get_logger().info("x", loss=1.0, step=1)
    assert telemetry.run_id is None
    stats = telemetry.stats()
    assert (stats.points_sent, stats.points_kept) == (0, 1)
    assert capsys.readouterr().err.count("metrics are off") == 1
    assert [trace.spans[0].name for trace in fake_mlflow.traces()] == ["update"]


def test_second_configure_closes_the_first_and_cached_loggers_follow(
    configure: Configure, fake_mlflow: FakeMlflow
) -> None:
    log = structlog.get_logger()
    bound = log.bind(seed=1)
    first = configure(run_name="first")
    log.info("x", loss=1.0, step=1)
    second = configure(run_name="second")
    log.info("x", loss=2.0, step=2)
    bound.info("x", loss=3.0, step=3)
    second.close()
    assert values(fake_mlflow, first.run_id) == {"misc/loss": [(1, 1.0)]}
    found = values(fake_mlflow, second.run_id)
    assert found["misc/loss"] == [(2, 2.0), (3, 3.0)]
    assert first.run_id != second.run_id


def test_records_about_our_own_requests_never_come_back(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure(log_filter="debug") as telemetry:
        logging.getLogger().setLevel(logging.DEBUG)
        structlog.get_logger().info("x", loss=1.0, step=1)
        for _ in range(5):
            telemetry.flush(5.0)
            time.sleep(0.12)
    assert telemetry.stats().events_processed == 1


def test_stdlib_records_join_the_same_stream(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with configure(console="dashboard"):
        logging.getLogger("mylib").warning("careful with %s", "this")
        logging.getLogger("torch.dynamo").warning("chatter")
    shown = capsys.readouterr().err
    assert "careful with this" in shown
    assert "chatter" not in shown
    assert logging.getLogger().handlers == []


def test_filter_that_hides_metrics_is_said_with_its_variable(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUST_LOG", "error")
    with configure(console="dashboard"):
        structlog.get_logger("trainers.ppo").info("hidden", loss=1.0, step=1)
    shown = capsys.readouterr().err
    assert "RUST_LOG=error hides metrics" in shown


def test_malformed_directive_and_label_are_named_and_the_rest_applies(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLTELEMETRY_LOG", "info,mylib=loud")
    monkeypatch.setenv("RLTELEMETRY_METRIC_LABELS", "nonsense,loss=The Loss")
    with configure(console="dashboard"):
        structlog.get_logger().info("x", loss=1.0, step=1)
    shown = capsys.readouterr().err
    assert "mylib=loud" in shown
    assert "nonsense" in shown
    assert "The Loss: 1" in shown


def test_environment_that_opentelemetry_refuses_costs_the_traces(
    configure: Configure,
    fake_mlflow: FakeMlflow,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "abc")
    with configure(console="json") as telemetry, telemetry.span("update"):
        structlog.get_logger().info("train", category="TRAINER", loss=0.5, timesteps=1)
    (run,) = fake_mlflow.runs()
    assert len(fake_mlflow.points(run.run_id, "trainer/loss")) == 1
    assert "traces are off: OpenTelemetry cannot use its environment: ValueError: OTEL" in capsys.readouterr().err


@pytest.mark.parametrize("for_ever", [float("inf"), 1e300])
def test_time_for_ever_is_a_time(configure: Configure, fake_mlflow: FakeMlflow, for_ever: float) -> None:
    with configure(exit_timeout_s=for_ever) as telemetry:
        structlog.get_logger().info("train", loss=0.5, timesteps=1)
        assert telemetry.commit(for_ever)
        assert telemetry.flush(for_ever)
        assert telemetry.wait_ready(for_ever)
        assert not telemetry.flush(float("nan"))
        assert not telemetry.flush(-1.0)
        structlog.get_logger().info("train", loss=0.5, timesteps=2)
    (run,) = fake_mlflow.runs()
    assert run.status == "FINISHED"
    assert len(fake_mlflow.points(run.run_id)) == 2


def test_status_that_is_none_of_mlflows_is_named(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry = configure(console="json")
    assert telemetry.wait_ready(20)
    telemetry.close("DONE")  # type: ignore[arg-type]
    (run,) = fake_mlflow.runs()
    assert run.status == "FINISHED"
    assert "close: got DONE; expected FINISHED, FAILED, KILLED" in capsys.readouterr().err


def test_unusable_environment_variable_is_named_and_ignored(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "often")
    with configure(console="dashboard"):
        pass
    assert "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [{"tracking_uri": "sqlite:///mlflow.db"}, {"tracking_uri": 3}, {"no_such": 1}, {"queue_events": 0}],
    ids=lambda fields: str(fields),
)
def test_keyword_that_cannot_be_used_raises_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as raised:
        rltelemetry.configure(**fields)
    assert "\n" not in str(raised.value)


def test_secret_in_the_address_is_used_and_never_shown(
    fake_mlflow: FakeMlflow, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = fake_mlflow.uri.replace("http://", "http://user:hunter2@")
    with configure(tracking_uri=uri, console="dashboard") as telemetry:
        telemetry.wait_ready(10.0)
        structlog.get_logger().info("x", uri=uri, password="hunter2", step=1)
    output = capsys.readouterr()
    assert "hunter2" not in output.err + output.out
    assert "hunter2" not in str(fake_mlflow.run(str(telemetry.run_id)))


def test_no_secret_leaves_by_spans_parameters_tags_or_late_events(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://ann:S3CR3T@host"
    log = structlog.get_logger("late")
    with configure(console="json", tags={"password": "S3CR3T", "db": url}, run_name=f"of {url}") as telemetry:
        telemetry.log_params({"db": url, "nested": {"api_key": "S3CR3T"}})
        telemetry.set_tags({"x": "token=S3CR3T"})
        with telemetry.span(f"at {url}", password="S3CR3T", url=url):
            log.info("on a span", step=1, password="S3CR3T", urls=[url], pair=("token", "S3CR3T"))
    log.info(f"late {url}", password="S3CR3T")
    output = capsys.readouterr()
    sent = "".join(str(request.body) for request in fake_mlflow.requests)
    assert "on a span" in sent
    assert "late" in output.err
    assert "S3CR3T" not in output.err + output.out + sent


def test_no_method_raises_whatever_it_is_given(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure() as telemetry:
        for given in (None, [1], 5, {"a": 10**5000}):
            telemetry.log_params(given)  # type: ignore[arg-type]
            telemetry.set_tags(given)  # type: ignore[arg-type]
        telemetry.log_artifact(5)  # type: ignore[arg-type]
        telemetry.log_params({"good": 1})
    assert fake_mlflow.run(str(telemetry.run_id)).params == {"a": "<integer of 16610 bits>", "good": "1"}


class HostileText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("mine")


class Hostile:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("mine")

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise RuntimeError("mine")

    def __bool__(self) -> bool:
        raise RuntimeError("mine")


def test_no_method_raises_whatever_the_objects_own_code_does(
    configure: Configure, fake_mlflow: FakeMlflow, tmp_path: Path
) -> None:
    others = set(threading.enumerate())  # workers of other tests that were left hanging on purpose
    text, thing, file = HostileText("described"), Hostile(), tmp_path / "file"
    file.write_text("x")
    telemetry = configure()
    assert telemetry.wait_ready(10.0)
    for method in (telemetry.describe, telemetry.log_params, telemetry.set_tags, telemetry.log_artifact):
        method(thing)  # type: ignore[operator]
    telemetry.describe(text)
    telemetry.log_text(text, "text.txt")
    telemetry.log_artifact(file, thing)  # type: ignore[arg-type]
    assert telemetry.flush(10.0)
    telemetry.close("FAILED", reason=thing)
    run = fake_mlflow.run(str(telemetry.run_id))
    assert run.status == "FAILED"
    assert run.tags["mlflow.note.content"] == "described"
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "rltelemetry"]


@pytest.mark.parametrize("call", [Telemetry.flush, Telemetry.commit])
def test_waiting_for_a_closed_pipeline_ends_at_once(
    configure: Configure, call: Callable[[Telemetry, float], bool]
) -> None:
    telemetry = configure()
    telemetry.close()
    start = time.monotonic()
    assert not call(telemetry, 5.0)
    assert time.monotonic() - start < 2.0


def test_refused_parameter_costs_only_itself(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure() as telemetry:
        telemetry.log_params({"lr": 1})
        telemetry.log_params({"lr": 2, "gamma": 0.9})  # MLflow refuses to change a parameter
    assert fake_mlflow.run(str(telemetry.run_id)).params == {"lr": "1", "gamma": "0.9"}


def test_events_after_the_end_are_shown_for_a_while_only(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    with configure(console="json"):
        pass
    capsys.readouterr()
    for index in range(1000):
        structlog.get_logger("late").info(f"late {index}")
    assert 0 < capsys.readouterr().err.count("late ") < 1000


def test_counts_are_exact(configure: Configure) -> None:
    with configure() as telemetry:
        log = structlog.get_logger()
        for step in range(100):
            log.info("x", good=float(step), bad=float("inf"), text="a", flag=True, step=step)
        log.info("no step", good=1.0)
    stats = telemetry.stats()
    assert (stats.events_emitted, stats.events_processed) == (101, 101)
    assert (stats.points_extracted, stats.points_sent, stats.points_kept) == (200, 100, 0)
    assert stats.points_dropped == {"infinite": 100}


def test_metrics_off_and_traces_off_need_no_server(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure(metrics=False, traces=False) as telemetry:
        structlog.get_logger().info("x", loss=1.0, step=1)
        with telemetry.span("update"):
            pass
        assert not telemetry.wait_ready(0.1)
    assert telemetry.stats().events_processed == 1
    assert fake_mlflow.runs() == []


def test_processors_feed_the_pipeline_from_a_chain_of_ones_own(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    rendered: list[str] = []
    with configure() as telemetry:
        structlog.reset_defaults()
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                *rltelemetry.processors(),
                structlog.processors.KeyValueRenderer(key_order=["event"]),
                lambda _logger, _method, line: rendered.append(line) or line,
            ],
            wrapper_class=structlog.BoundLogger,
            logger_factory=structlog.ReturnLoggerFactory(),
        )
        structlog.get_logger().info("train", category="train", critic_loss=0.5, timesteps=100)
    assert values(fake_mlflow, telemetry.run_id) == {"trainer/critic_loss": [(100, 0.5)]}
    assert len(rendered) == 1
    assert "critic_loss=0.5" in rendered[0]


@pytest.mark.parametrize("comes_first", ["structlog", "rltelemetry"])
def test_chain_of_ones_own_may_be_configured_before_or_after(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str], comes_first: str
) -> None:
    structlog.reset_defaults()

    def configure_structlog() -> None:
        structlog.configure(
            processors=[*rltelemetry.processors(), structlog.processors.KeyValueRenderer(key_order=["event"])]
        )

    if comes_first == "structlog":
        configure_structlog()
    with configure(console="json") as telemetry:
        if comes_first == "rltelemetry":
            configure_structlog()
        structlog.get_logger().info("train", category="train", critic_loss=0.5, timesteps=100)
    structlog.reset_defaults()
    assert values(fake_mlflow, telemetry.run_id) == {"trainer/critic_loss": [(100, 0.5)]}
    output = capsys.readouterr()
    assert output.out == "event='train' category='TRAINER' critic_loss=0.5 timesteps=100\n"
    assert '"event": "train"' not in output.err


def test_artifact_is_uploaded(configure: Configure, fake_mlflow: FakeMlflow, tmp_path: Any) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    with configure() as telemetry:
        telemetry.log_artifact(file)
    assert fake_mlflow.artifact(str(telemetry.run_id), "notes.txt") == b"kept"


def test_system_metrics_stand_under_mlflows_own_keys(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    pytest.importorskip("psutil")
    with configure(system_metrics=True, system_metrics_interval_s=0.05) as telemetry:
        telemetry.wait_ready(10.0)
        time.sleep(0.5)
    keys = set(fake_mlflow.run(str(telemetry.run_id)).metrics)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= keys


def test_flush_returns_when_the_points_are_stored(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure() as telemetry:
        structlog.get_logger().info("x", loss=1.0, step=1)
        assert telemetry.flush(10.0)
        assert values(fake_mlflow, telemetry.run_id) == {"misc/loss": [(1, 1.0)]}


def test_importing_does_no_work() -> None:
    import subprocess
    import sys

    code = (
        "import threading, rltelemetry, sys;"
        "assert not {'torch', 'mlflow', 'httpx', 'envpool'} & set(sys.modules), sys.modules;"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_closing_leaves_no_thread_behind(configure: Configure) -> None:
    before = set(threading.enumerate())
    with configure():
        structlog.get_logger().info("x", loss=1.0, step=1)
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("rltelemetry")]
    assert left == []


def test_exported_names_are_those_that_all_says() -> None:
    assert sorted(rltelemetry.__all__) == rltelemetry.__all__
    assert all(hasattr(rltelemetry, name) for name in rltelemetry.__all__)


def test_worker_that_dies_is_said_once_and_restarted_and_the_counts_stay_exact(
    configure: Configure, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with configure(console="dashboard") as telemetry:
        assert telemetry.wait_ready(10.0)
        log, console = structlog.get_logger(), telemetry._life.parts._console  # type: ignore[union-attr]
        emit = console.emit

        def deadly(record: Any) -> None:
            if record.event == "deadly":
                raise SystemExit("a bug in a sink")
            emit(record)

        monkeypatch.setattr(console, "emit", deadly)
        for step in range(20):
            log.info("deadly" if step in {5, 11} else "x", loss=1.0, step=step)
        assert telemetry.flush(20.0)
        log.info("x", loss=1.0, step=20)
    assert capsys.readouterr().err.count("the telemetry worker failed and was started again") == 1
    stats = telemetry.stats()
    assert (stats.events_emitted, stats.events_processed, stats.events_dropped) == (21, 19, {"processor": 2})
    assert [step for step, _ in values(fake_mlflow, telemetry.run_id)["misc/loss"]] == [
        step for step in range(21) if step not in {5, 11}
    ]


def test_flush_says_whether_everything_has_arrived(configure: Configure, fake_mlflow: FakeMlflow) -> None:
    with configure(exit_timeout_s=0.2) as telemetry:
        assert telemetry.wait_ready(10.0)
        fake_mlflow.stop()
        structlog.get_logger().info("x", loss=1.0, step=1)
        assert not telemetry.flush(0.5)
        assert telemetry.stats().points_kept == 1
        fake_mlflow.start()
        assert telemetry.flush(20.0)
        assert telemetry.stats().points_kept == 0


def test_call_that_waits_longer_than_the_drain_is_in_the_spool_meanwhile(
    configure: Configure, fake_mlflow: FakeMlflow, tmp_path: Any
) -> None:
    fake_mlflow.stop()
    with configure(exit_timeout_s=0.2, spool_dir=tmp_path) as telemetry:
        structlog.get_logger().info("x", loss=1.0, step=1)
        (spool,) = tmp_path.glob("*.spool")
        deadline = time.monotonic() + 20.0
        while _num_rows(spool) == 0:  # 100 ms on an idle machine
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert telemetry.stats().points_kept == 1


def _num_rows(spool: Any) -> int:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(spool)) as db:
        count: int = db.execute("SELECT count(*) FROM rows WHERE kind = 'points'").fetchone()[0]
        return count
