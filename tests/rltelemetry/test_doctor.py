"""The doctor: whatever is wrong between here and MLflow, the check that names it fails, and says what to do."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

import rltelemetry
from rltelemetry import cli, server
from rltelemetry.doctor import CHECKS, Examination, Finding, Level
from rltelemetry.doctor.timing import Asked, check_clock
from rltelemetry.places import state_directory
from rltelemetry.settings import resolve
from rltelemetry.sinks.mlflow import Outcome, SpoolFile, Verdict
from rltelemetry.testing import Answer, FakeMlflow, MlflowServer, Request, ToxicProxy

Findings = dict[str, Finding]

QUIET = {"console": "off", "system_metrics": False}


def examine(uri: str, *, is_read_only: bool = False, **fields: Any) -> Findings:
    fields = {"request_timeout_s": 10.0, **fields}
    findings = Examination(resolve({"tracking_uri": uri, **fields}, {}), is_read_only=is_read_only).run()
    checks = [finding.check for finding in findings]
    assert len(set(checks)) == len(checks), "a check is reported once"
    assert set(CHECKS) - set(checks) <= {"run"}, "every check is reported"
    return {finding.check: finding for finding in findings}


def at(findings: Findings, level: Level) -> set[str]:
    return {check for check, finding in findings.items() if finding.level is level}


def only_failure(findings: Findings) -> Finding:
    (check,) = at(findings, Level.FAILED)
    assert findings[check].remedy, "whoever names a failure says what to do"
    return findings[check]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_sound_server_passes_every_check_and_keeps_nothing(any_mlflow: MlflowServer) -> None:
    experiment_id = any_mlflow.create_experiment(f"doctor {os.urandom(4).hex()}")
    findings = examine(any_mlflow.uri, experiment_id=experiment_id)
    assert at(findings, Level.OK) == set(CHECKS) - {"run"}, findings
    assert any_mlflow.runs(experiment_id) == []
    assert any_mlflow.traces(experiment_id=experiment_id) == []


def test_read_only_writes_nothing(fake_mlflow: FakeMlflow) -> None:
    findings = examine(fake_mlflow.uri, is_read_only=True)
    assert at(findings, Level.SKIPPED) == {"metric probe", "trace probe", "artifacts"}
    assert at(findings, Level.FAILED) == set()
    asked = {(request.method, request.path, request.body) for request in fake_mlflow.requests}
    assert {each for each in asked if each[0] != "GET"} == {("POST", "/v1/traces", b"")}


def test_server_that_is_down_is_named(fake_mlflow: FakeMlflow) -> None:
    fake_mlflow.stop()
    failure = only_failure(examine(fake_mlflow.uri.replace("127.0.0.1", "localhost")))
    assert failure.check == "connection"
    assert "connection refused" in failure.seen
    assert "tunnel is down" in failure.remedy
    assert "mlflow server" in failure.remedy


def test_name_without_an_address_is_named() -> None:
    failure = only_failure(examine("http://nosuch.invalid:5000"))
    assert failure.check == "name"
    assert "nosuch.invalid" in failure.seen


def test_resolver_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_hints: is_over.wait(30) and [])
    failure = only_failure(examine("http://trainer.example:5000", request_timeout_s=0.2))
    is_over.set()
    assert (failure.check, "no answer" in failure.seen) == ("name", True)


def test_mlflow_that_does_not_listen_behind_the_tunnel_is_named() -> None:
    with ToxicProxy(free_port()) as proxy:  # accepts, and resets, as the host's end of a tunnel does
        failure = only_failure(examine(proxy.uri))
    assert failure.check == "mlflow"
    assert "tunnel is up, but no MLflow server listens behind it" in failure.remedy


def test_laptop_that_sleeps_is_named(fake_mlflow: FakeMlflow) -> None:
    with ToxicProxy(fake_mlflow.uri) as proxy:
        proxy.mode = "hang"
        failure = only_failure(examine(proxy.uri, request_timeout_s=0.3))
    assert failure.check == "mlflow"
    assert "asleep" in failure.remedy


@pytest.mark.parametrize("path", ["/v1/traces", "/api/2.0/mlflow/runs/log-batch", "/mlflow", "/a/v1/traces"])
def test_wrong_path_is_named_with_the_right_address(any_mlflow: MlflowServer, path: str) -> None:
    failure = only_failure(examine(any_mlflow.uri + path))
    assert failure.check == "mlflow"
    assert failure.remedy == f"Give the address {any_mlflow.uri}."


def test_missing_prefix_is_named_and_a_given_one_is_good() -> None:
    with FakeMlflow(static_prefix="/mlf") as prefixed:
        failure = only_failure(examine(prefixed.uri.removesuffix("/mlf")))
        assert (failure.check, "--static-prefix" in failure.remedy) == ("mlflow", True)
        failure = only_failure(examine(f"{prefixed.uri}/v1/traces"))
        assert failure.remedy == f"Give the address {prefixed.uri}."
        assert at(examine(prefixed.uri), Level.FAILED) == set()


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"Content-Type": "text/html"}, b"<html><title>Log in</title></html>"),
        (200, {"Content-Type": "application/json"}, b'{"status": "fine"}'),
        (302, {"Location": "https://login.example/"}, b""),
        (404, {"Content-Type": "text/html"}, b"<title>Not here</title>"),
        (502, {"Content-Type": "text/html"}, b"<title>Bad Gateway</title>"),
    ],
)
def test_something_else_than_mlflow_is_named(status: int, headers: dict[str, str], body: bytes) -> None:
    with ToxicProxy(free_port()) as proxy:
        proxy.answer_with(status, headers, body)
        findings = examine(proxy.uri)
    assert at(findings, Level.FAILED) == {"mlflow"}
    assert at(findings, Level.SKIPPED) >= {"store", "traces", "metric probe"}


def test_something_that_speaks_no_http_is_named() -> None:
    with ToxicProxy(free_port()) as proxy:
        proxy.mode = "garbage"
        assert only_failure(examine(proxy.uri)).check == "mlflow"


def test_name_of_the_host_that_mlflow_refuses_is_named(
    any_mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *args, **hints: real("127.0.0.1", *args, **hints))
    failure = only_failure(examine(any_mlflow.uri.replace("127.0.0.1", "laptop.example")))
    assert failure.check == "host"
    assert "--allowed-hosts" in failure.remedy


@pytest.mark.parametrize(
    ("credentials", "seen"), [({}, "sent were none"), ({"username": "ada", "password": "wrong"}, "those of ada")]
)
def test_missing_and_wrong_credentials_are_named(credentials: dict[str, str], seen: str) -> None:
    with FakeMlflow(username="ada", password="s3cret") as special:
        failure = only_failure(examine(special.uri, **credentials))
        assert failure.check == "credentials"
        assert seen in failure.seen
        assert "MLFLOW_TRACKING_USERNAME" in failure.remedy
        findings = examine(special.uri, username="ada", password="s3cret")
    assert at(findings, Level.FAILED) == set()
    assert "s3cret" not in str(findings)


def test_token_is_a_credential() -> None:
    with FakeMlflow(token="t0ken") as special:
        assert at(examine(special.uri, token="t0ken"), Level.FAILED) == set()
        assert only_failure(examine(special.uri, token="other")).check == "credentials"


def test_missing_experiment_is_named(any_mlflow: MlflowServer) -> None:
    failure = only_failure(examine(any_mlflow.uri, experiment_id="424242"))
    assert failure.check == "experiment"
    assert "no experiment 424242" in failure.seen


def test_experiment_by_name_will_be_made(any_mlflow: MlflowServer) -> None:
    findings = examine(any_mlflow.uri, experiment_name="nobody has made this")
    assert at(findings, Level.FAILED) == set()
    assert "will be made" in findings["experiment"].seen


def test_deleted_experiment_is_named(any_mlflow: MlflowServer) -> None:
    name = f"gone {os.urandom(4).hex()}"
    experiment_id = any_mlflow.create_experiment(name)
    any_mlflow.ask("POST", "/api/2.0/mlflow/experiments/delete", {"experiment_id": experiment_id})
    for given in ({"experiment_id": experiment_id}, {"experiment_name": name}):
        failure = only_failure(examine(any_mlflow.uri, **given))
        assert (failure.check, "restore" in failure.remedy) == ("experiment", True)


def test_experiment_whose_name_and_id_differ_is_named(fake_mlflow: FakeMlflow) -> None:
    fake_mlflow.create_experiment("one")
    failure = only_failure(examine(fake_mlflow.uri, experiment_name="one", experiment_id="0"))
    assert failure.check == "experiment"


def test_run_to_be_carried_on_is_looked_up(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run("mine")
    assert "mine" in examine(any_mlflow.uri, run_id=run_id)["run"].seen
    any_mlflow.delete_run(run_id)
    assert only_failure(examine(any_mlflow.uri, run_id=run_id)).check == "run"
    assert only_failure(examine(any_mlflow.uri, run_id="0" * 32)).check == "run"


def test_file_store_is_named() -> None:
    with FakeMlflow(store_type="FileStore") as special:
        findings = examine(special.uri)
    failure = only_failure(findings)
    assert failure.check == "store"
    assert "sqlite:///mlflow.db" in failure.remedy
    assert findings["metric probe"].level is Level.OK
    assert findings["trace probe"].level is Level.SKIPPED


def test_server_without_a_trace_route_is_named() -> None:
    with FakeMlflow(has_traces=False) as special:
        findings = examine(special.uri)
    assert only_failure(findings).check == "traces"
    assert "--gunicorn-opts" in findings["traces"].remedy
    assert findings["metric probe"].level is Level.OK


@pytest.mark.parametrize("status", [200, 401, 405, 422, 501, 503])
def test_every_answer_of_the_trace_route_is_explained(fake_mlflow: FakeMlflow, status: int) -> None:
    fake_mlflow.intercept = lambda request: Answer(status, {}, b"{}") if request.path == "/v1/traces" else None
    failure = only_failure(examine(fake_mlflow.uri, is_read_only=True))
    assert failure.check == "traces"
    assert str(status) in failure.seen


def test_server_that_does_not_link_traces_is_a_warning() -> None:
    with FakeMlflow(links_runs=False) as special:
        findings = examine(special.uri)
    assert at(findings, Level.WARNING) == {"trace probe"}


def answering(path: str, status: int, body: Any) -> Callable[[Request], Answer | None]:
    def intercept(request: Request) -> Answer | None:
        if request.path != path:
            return None
        return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())

    return intercept


def test_older_server_is_recognised_and_its_version_is_a_warning(fake_mlflow: FakeMlflow) -> None:
    old = {"/api/3.0/mlflow/server-info": Answer(404, {"content-type": "text/html"}, b"<title>404 Not Found</title>")}
    old["/version"] = Answer(200, {"content-type": "text/html"}, b"2.9.1")
    fake_mlflow.intercept = lambda request: old.get(request.path)
    findings = examine(fake_mlflow.uri)
    assert at(findings, Level.FAILED) == set()
    assert findings["version"].level is Level.WARNING
    assert "2.9.1" in findings["version"].seen
    assert at(findings, Level.SKIPPED) == {"store"}


def test_point_that_comes_back_changed_is_named(fake_mlflow: FakeMlflow) -> None:
    metric = {"key": "misc/doctor", "value": 0.0, "timestamp": 0, "step": 0}
    fake_mlflow.intercept = answering("/api/2.0/mlflow/metrics/get-history", 200, {"metrics": [metric]})
    findings = examine(fake_mlflow.uri)
    assert only_failure(findings).check == "metric probe"
    assert fake_mlflow.runs() == [], "the probe's run is deleted all the same"


@pytest.mark.parametrize(
    ("path", "check"),
    [
        ("/api/2.0/mlflow/runs/create", "metric probe"),
        ("/api/2.0/mlflow/runs/log-batch", "metric probe"),
        ("/api/3.0/mlflow/traces/get", "trace probe"),
    ],
)
def test_probe_that_the_server_refuses_is_named(fake_mlflow: FakeMlflow, path: str, check: str) -> None:
    fake_mlflow.intercept = answering(path, 403, {"error_code": "PERMISSION_DENIED", "message": "not yours"})
    findings = examine(fake_mlflow.uri)
    assert at(findings, Level.FAILED) == {check}
    assert "not yours" in findings[check].seen
    assert fake_mlflow.runs() == []


def test_what_cannot_be_deleted_is_said_with_its_name(fake_mlflow: FakeMlflow) -> None:
    refusal = Answer(403, {"content-type": "application/json"}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}')
    fake_mlflow.intercept = lambda request: refusal if "delete" in request.path else None
    findings = examine(fake_mlflow.uri)
    assert at(findings, Level.WARNING) == {"metric probe", "trace probe"}
    (run,) = fake_mlflow.runs()
    assert run.run_id in findings["metric probe"].remedy
    (trace,) = fake_mlflow.traces()
    assert trace.trace_id in findings["trace probe"].remedy


@pytest.mark.parametrize(
    ("offset_s", "level"),
    [(0.0, Level.OK), (1.5, Level.OK), (-1.5, Level.OK), (60.0, Level.WARNING), (-3.5, Level.WARNING)],
)
def test_clock_that_differs_is_a_warning(offset_s: float, level: Level) -> None:
    now_s = 1_700_000_000.25
    answer = Outcome(Verdict.DELIVERED, 200, server_time_s=float(int(now_s + offset_s)))
    finding = check_clock(Asked(answer, now_s, took_s=0.01))
    assert finding.level is level
    if offset_s == 60.0:
        assert "60 s ahead of ours" in finding.seen


def test_slow_way_is_a_warning(fake_mlflow: FakeMlflow) -> None:
    fake_mlflow.latency_s = 0.4
    findings = examine(fake_mlflow.uri, is_read_only=True, request_timeout_s=1.0)
    assert at(findings, Level.WARNING) == {"round trip"}


def leave_points(count: int) -> None:
    """Log points for a server that is down, and end."""
    with rltelemetry.configure(
        **QUIET, tracking_uri=f"http://127.0.0.1:{free_port()}", traces=False, exit_timeout_s=0.5
    ):
        for step in range(count):
            structlog.get_logger().info("x", loss=1.0, step=step)


def test_what_ended_runs_have_left_is_counted(fake_mlflow: FakeMlflow) -> None:
    assert "nothing waits" in examine(fake_mlflow.uri)["spools"].seen
    leave_points(7)
    leave_points(5)
    finding = examine(fake_mlflow.uri)["spools"]
    assert finding.level is Level.WARNING
    assert "12 points" in finding.seen
    assert "2 spools" in finding.seen
    assert "rltelemetry sync" in finding.remedy


def test_what_a_running_process_sends_itself_is_no_warning(fake_mlflow: FakeMlflow) -> None:
    program = (
        "import os, sys, rltelemetry, structlog\n"
        f"rltelemetry.configure(console='off', system_metrics=False, tracking_uri='http://127.0.0.1:{free_port()}')\n"
        "structlog.get_logger().info('x', loss=1.0, step=1)\n"
        "print('ready', flush=True); sys.stdin.read(); os._exit(0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        finding = examine(fake_mlflow.uri)["spools"]
        process.communicate()
    assert finding.level is Level.OK
    assert "go on" in finding.seen
    assert len(SpoolFile.all_in(state_directory())) == 1


def test_damaged_spools_are_named(fake_mlflow: FakeMlflow) -> None:
    directory = state_directory()
    directory.mkdir(parents=True)
    (directory / "20200101-000000-1-aa.spool").write_bytes(b"this is no database, but has some length" * 40)
    (directory / "20200101-000000-1-bb.spool.damaged-0a1b").write_bytes(b"")
    finding = examine(fake_mlflow.uri)["spools"]
    assert finding.level is Level.WARNING
    assert "aa.spool" in finding.seen
    assert "damaged-0a1b" in finding.seen


def test_setting_that_is_ignored_is_named(fake_mlflow: FakeMlflow) -> None:
    resolved = resolve({"tracking_uri": fake_mlflow.uri}, {"RLTELEMETRY_EXIT_TIMEOUT_S": "soon"})
    findings = {finding.check: finding for finding in Examination(resolved).run()}
    assert at(findings, Level.FAILED) == {"settings"}
    assert "RLTELEMETRY_EXIT_TIMEOUT_S" in findings["settings"].seen


def test_command_prints_a_line_a_check_and_the_remedy(
    fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", fake_mlflow.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "settings", fake_mlflow.uri, "(argument)"]
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * (len(CHECKS) - 1)
    assert lines[-1] == f"{fake_mlflow.uri}: all is well"
    fake_mlflow.stop()
    assert cli.main(["doctor", fake_mlflow.uri]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAILED   connection") for line in lines)
    assert any(line.strip().startswith("-> The SSH tunnel is down") for line in lines)
    assert lines[-1] == f"{fake_mlflow.uri}: 1 failed: connection"


def test_command_prints_json(fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", fake_mlflow.uri, "--json", "--read-only"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["failed"], report["tracking_uri"]) == (True, [], fake_mlflow.uri)
    assert {check["check"] for check in report["checks"]} == set(CHECKS) - {"run"}
    fake_mlflow.stop()
    assert cli.main(["doctor", fake_mlflow.uri, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["failed"]) == (False, ["connection"])


def test_command_examines_what_the_environment_names(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_mlflow.uri)
    assert cli.main(["doctor"]) == 0
    assert f"{fake_mlflow.uri} (MLFLOW_TRACKING_URI)" in capsys.readouterr().out


def test_command_examines_this_directorys_server_where_nothing_else_is_named(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = server.EmbeddedServer(fake_mlflow.uri, os.getpid(), "", "")
    monkeypatch.setattr(server, "recorded", lambda _directory: own)
    monkeypatch.setattr(server, "find", lambda: None)
    assert cli.main(["doctor"]) == 0
    assert f"{fake_mlflow.uri} (the server of this directory)" in capsys.readouterr().out


def test_address_that_is_none_is_a_mistake_of_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "./mlruns"]) == 2
    assert "expected http://HOST:PORT" in capsys.readouterr().err


def test_reader_who_leaves_early_is_no_failure(fake_mlflow: FakeMlflow) -> None:
    command = [sys.executable, "-m", "rltelemetry", "doctor", fake_mlflow.uri, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, complaint = process.communicate()
    assert (process.returncode, complaint) == (141, b"")
