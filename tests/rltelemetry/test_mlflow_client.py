"""MLflow over HTTP: exact bodies, an outcome for everything, no redirect, no proxy, no secret in any text."""

import asyncio
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rltelemetry.schema import MAX_PARAM_LENGTH
from rltelemetry.settings import Settings, resolve
from rltelemetry.sinks.mlflow import client as client_module
from rltelemetry.sinks.mlflow.client import CHUNK_BYTES, MlflowClient
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.transport import AsyncioTransport
from rltelemetry.testing import FakeMlflow, MlflowServer, ToxicProxy
from rltelemetry.types import MetricPoint

TIMEOUT_S = 20.0
POINT = MetricPoint("trainer/loss", 0.5, 3, 1_700_000_000_000)


def ask(uri: str, request: Callable[[MlflowClient], Awaitable[Outcome]], **fields: Any) -> Outcome:
    """Put one request with a client of its own."""

    async def scenario() -> Outcome:
        client = MlflowClient(resolve({**fields, "tracking_uri": uri}, {}).settings, environ={"HOME": "/nonexistent"})
        try:
            return await request(client)
        finally:
            await client.close()

    return asyncio.run(scenario())


def log_points(*points: MetricPoint, run_id: str = "r", timeout_s: float = TIMEOUT_S) -> Any:
    return lambda client: client.log_points(run_id, points, timeout_s)


@pytest.fixture
def proxy(fake_mlflow: FakeMlflow) -> Iterator[ToxicProxy]:
    with ToxicProxy(fake_mlflow.port) as made:
        yield made


def test_hostile_numbers_do_not_cost_their_neighbours(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run()
    points = [
        MetricPoint("a", 1.0, 0, 1_700_000_000_000),
        MetricPoint("a", float("nan"), 1, 1_700_000_000_001),
        MetricPoint("a", 1.7e308, 2**63 - 1, 1_700_000_000_002),
        MetricPoint("a", -5e-324, -(2**62), 1_700_000_000_003),
        MetricPoint("é/日本", 2.0, 3, 1_700_000_000_004),
        MetricPoint("a", 2.0, 3, 1_700_000_000_005),
    ]
    assert ask(any_mlflow.uri, log_points(*points, run_id=run_id)).is_delivered
    assert sorted(map(repr, any_mlflow.points(run_id))) == sorted(map(repr, points))


def test_points_that_are_sent_again_are_stored_once(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run()
    for _ in range(3):
        assert ask(any_mlflow.uri, log_points(POINT, run_id=run_id)).is_delivered
    assert any_mlflow.points(run_id) == [POINT]


def test_infinite_value_never_leaves_the_process(fake_mlflow: FakeMlflow) -> None:
    outcome = ask(fake_mlflow.uri, log_points(POINT._replace(value=float("inf"))))
    assert outcome.verdict is Verdict.POISON
    assert fake_mlflow.requests == []


def test_body_has_the_run_first_and_exact_types(fake_mlflow: FakeMlflow) -> None:
    import numpy as np

    ask(fake_mlflow.uri, log_points(MetricPoint("k", np.float32(0.5), np.int64(7), np.int64(9))))
    (request,) = fake_mlflow.requests
    assert request.body.startswith(b'{"run_id":"r",')
    assert json.loads(request.body)["metrics"] == [{"key": "k", "value": 0.5, "timestamp": 9, "step": 7}]
    assert request.headers["content-type"] == "application/json"


def test_runs_are_created_found_updated_and_deleted(any_mlflow: MlflowServer) -> None:
    uri = any_mlflow.uri
    name = any_mlflow.create_experiment(f"client {id(any_mlflow)}")
    body = {"experiment_id": name, "start_time": 5, "run_name": "n", "tags": [{"key": "t.uuid", "value": "u-1"}]}
    created = ask(uri, lambda client: client.create_run(body, TIMEOUT_S))
    run_id = created.answer["run"]["info"]["run_id"]
    found = ask(uri, lambda client: client.find_runs(name, "t.uuid", "u-1", TIMEOUT_S))
    assert [run["info"]["run_id"] for run in found.answer["runs"]] == [run_id]
    assert not ask(uri, lambda client: client.find_runs(name, "t.uuid", "u-2", TIMEOUT_S)).answer.get("runs")
    assert ask(uri, lambda client: client.update_run(run_id, "KILLED", 77, TIMEOUT_S)).is_delivered
    assert ask(uri, lambda client: client.get_run(run_id, TIMEOUT_S)).answer["run"]["info"]["status"] == "KILLED"
    assert any_mlflow.run(run_id).end_time_ms == 77
    assert ask(uri, lambda client: client.delete_run(run_id, TIMEOUT_S)).is_delivered
    refused = ask(uri, log_points(POINT, run_id=run_id))
    assert (refused.verdict, "restore" in refused.remedy) == (Verdict.HELD, True)


def test_parameters_and_tags_are_cut_to_what_mlflow_takes(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run()
    params = {"long": "x" * 10_000, "lone": "a\ud800b", "é": "日"}
    assert ask(any_mlflow.uri, lambda client: client.log_params(run_id, params, TIMEOUT_S)).is_delivered
    assert ask(any_mlflow.uri, lambda client: client.set_tags(run_id, {"t": "v"}, TIMEOUT_S)).is_delivered
    run = any_mlflow.run(run_id)
    assert len(run.params["long"]) == MAX_PARAM_LENGTH
    assert (run.params["lone"], run.params["é"], run.tags["t"]) == ("a?b", "日", "v")


def test_experiment_is_found_by_name_and_id(any_mlflow: MlflowServer) -> None:
    name = f"by name {id(any_mlflow)}"
    missing = ask(any_mlflow.uri, lambda client: client.get_experiment_by_name(name, TIMEOUT_S))
    assert (missing.status, missing.error_code) == (404, "RESOURCE_DOES_NOT_EXIST")
    made = ask(any_mlflow.uri, lambda client: client.create_experiment(name, TIMEOUT_S)).answer["experiment_id"]
    twice = ask(any_mlflow.uri, lambda client: client.create_experiment(name, TIMEOUT_S))
    assert twice.error_code == "RESOURCE_ALREADY_EXISTS"
    found = ask(any_mlflow.uri, lambda client: client.get_experiment(made, TIMEOUT_S))
    assert found.answer["experiment"]["name"] == name


def test_server_tells_what_it_is(any_mlflow: MlflowServer) -> None:
    assert ask(any_mlflow.uri, lambda client: client.server_info(TIMEOUT_S)).answer["store_type"] == "SqlStore"


def test_file_is_uploaded(any_mlflow: MlflowServer, tmp_path: Path) -> None:
    run_id = any_mlflow.create_run()
    content = bytes(range(256)) * 4000
    (tmp_path / "weights.bin").write_bytes(content)
    root = any_mlflow.run(run_id).artifact_uri.partition(":/")[2]
    target = f"{root}/a b/weights.bin"
    outcome = ask(any_mlflow.uri, lambda client: client.put_artifact(target, tmp_path / "weights.bin", TIMEOUT_S))
    assert outcome.is_delivered
    assert any_mlflow.artifact(run_id, "a b/weights.bin") == content


def _none(directory: Path) -> Path:
    return directory / "none"


def _too_long(directory: Path) -> Path:
    return directory / ("x" * 300)


def _no_path(directory: Path) -> Path:
    return directory / "a\0b"


def _pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def _directory(directory: Path) -> Path:
    return directory


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_none, "No such file"),
        (_too_long, "name too long"),
        (_no_path, "null byte"),
        (_pipe, "no regular file"),
        (_directory, "no regular file"),
    ],
)
def test_file_that_cannot_be_read_is_nobodys_fault_but_its_own(
    fake_mlflow: FakeMlflow, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path = make(tmp_path)
    outcome = ask(fake_mlflow.uri, lambda client: client.put_artifact("a", path, TIMEOUT_S))
    assert outcome.verdict is Verdict.POISON
    assert words in outcome.cause
    assert fake_mlflow.requests == []


class BrokenFile(io.BytesIO):
    """A file that breaks, or ends too soon, behind its first piece."""

    def __init__(self, error: OSError | None) -> None:
        super().__init__(bytes(CHUNK_BYTES))
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if not piece and self.error is not None:
            raise self.error
        return piece


@pytest.mark.parametrize(
    ("error", "verdict", "words"),
    [
        (None, Verdict.POISON, "become shorter"),
        (OSError(errno.EISDIR, "Is a directory"), Verdict.POISON, "Is a directory"),
        (OSError(errno.EIO, "Input/output error"), Verdict.RETRY, "Input/output error"),
    ],
)
def test_file_that_breaks_on_its_way_is_no_trouble_of_the_connection(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, error: OSError | None, verdict: Verdict, words: str
) -> None:
    monkeypatch.setattr(client_module, "_open", lambda _: (BrokenFile(error), 2 * CHUNK_BYTES))
    outcome = ask(fake_mlflow.uri, lambda client: client.put_artifact("a", Path("x"), TIMEOUT_S))
    assert outcome.verdict is verdict
    assert words in outcome.cause
    assert "TLS" not in str(outcome)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.ENOMEM])
def test_file_that_cannot_be_opened_for_a_while_is_tried_again(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(_: Path) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(client_module, "_open", fail)
    outcome = ask("http://127.0.0.1:9", lambda client: client.put_artifact("a", Path("x"), TIMEOUT_S))
    assert (outcome.verdict, outcome.is_server_wide) == (Verdict.RETRY, False)
    assert os.strerror(code) in outcome.cause


@pytest.mark.parametrize("path", ["0/r/artifacts/../../x", "0/r/artifacts/", "0/r/artifacts//etc", "0/r/artifacts/%2e"])
def test_artifact_path_that_leads_elsewhere_is_not_asked_for(
    fake_mlflow: FakeMlflow, tmp_path: Path, path: str
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for request in (
        lambda client: client.put_text(path, "text", TIMEOUT_S),
        lambda client: client.put_artifact(path, tmp_path / "a", TIMEOUT_S),
        lambda client: client.delete_artifact(path, TIMEOUT_S),
    ):
        outcome = ask(fake_mlflow.uri, request)
        assert outcome.verdict is Verdict.POISON
        assert f"leads out of the run: {path}" in outcome.cause
    assert fake_mlflow.requests == []


def test_whatever_a_transport_raises_becomes_an_outcome() -> None:
    def raising(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("protocol error")

    async def scenario() -> Outcome:
        return await MlflowClient(Settings(), transport=httpx.MockTransport(raising)).server_info(TIMEOUT_S)

    outcome = asyncio.run(scenario())
    assert outcome.verdict is Verdict.RETRY
    assert "protocol error" in outcome.cause


@pytest.mark.parametrize(
    ("mode", "cause", "is_uncertain"),
    [
        ("reset", "closed without an answer", True),
        ("hang", "no answer in time", True),
        ("cut_reply", "closed without an answer", True),
        ("lose_reply", "closed without an answer", True),
        ("garbage", "closed without an answer", True),
    ],
)
def test_broken_way_is_an_outcome(proxy: ToxicProxy, mode: Any, cause: str, is_uncertain: bool) -> None:
    proxy.set_mode(mode)
    outcome = ask(proxy.uri, log_points(POINT, timeout_s=0.3))
    assert outcome.verdict is Verdict.RETRY
    assert cause in outcome.cause
    assert outcome.is_uncertain is is_uncertain


def test_refused_connection_and_unknown_host_are_told_apart(proxy: ToxicProxy) -> None:
    proxy.stop()
    refused = ask(proxy.uri, log_points(POINT))
    assert (refused.cause.partition(" (")[0], refused.is_uncertain) == ("connection refused", False)
    unknown = ask("http://no-such-host.invalid:5000", log_points(POINT))
    assert "cannot be resolved" in unknown.cause


def test_answer_that_trickles_is_cut_off(proxy: ToxicProxy) -> None:
    proxy.bytes_per_s = 30.0  # each wait is short, all of them would be minutes
    proxy.set_mode("rate")
    outcome = ask(proxy.uri, log_points(POINT, timeout_s=0.2))
    assert (outcome.verdict, outcome.is_timeout) == (Verdict.RETRY, True)


def test_redirect_is_not_followed(proxy: ToxicProxy, fake_mlflow: FakeMlflow) -> None:
    proxy.answer_with(302, {"Location": fake_mlflow.uri})
    assert ask(proxy.uri, log_points(POINT)).verdict is Verdict.HELD
    assert fake_mlflow.requests == []


def test_page_that_says_200_confirms_nothing(proxy: ToxicProxy) -> None:
    proxy.answer_with(200, {"Content-Type": "text/html"}, b"<html>log in</html>")
    assert ask(proxy.uri, log_points(POINT)).verdict is Verdict.HELD


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"])
def test_no_proxy_variable_reroutes_a_request(
    fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(fake_mlflow.uri, lambda client: client.server_info(TIMEOUT_S)).is_delivered


def test_credentials_are_sent_and_never_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeMlflow(username="me", password="hunter2") as server:
        run_id = server.create_run()
        uri = server.uri.replace("http://", "http://me:hunter2@")
        assert ask(uri, log_points(POINT, run_id=run_id)).is_delivered
        wrong = ask(uri.replace("hunter2", "hunter3"), log_points(POINT, run_id=run_id))
    assert (wrong.status, wrong.verdict) == (401, Verdict.HELD)
    for record in caplog.records:
        assert "hunter" not in record.getMessage()
    gone = ask("http://me:hunter2@127.0.0.1:9", log_points(POINT))
    assert "hunter" not in str(wrong) + str(gone) + repr(gone)


def test_wrong_prefix_is_said() -> None:
    with FakeMlflow(static_prefix="/mlflow") as server:
        run_id = server.create_run()
        assert ask(server.uri, log_points(POINT, run_id=run_id)).is_delivered
        wrong = ask(server.uri.removesuffix("/mlflow"), log_points(POINT, run_id=run_id))
        assert "path prefix" in wrong.remedy


def test_settings_that_cannot_be_used_are_an_outcome(fake_mlflow: FakeMlflow, tmp_path: Path) -> None:
    ca = ask("https://127.0.0.1:9", log_points(POINT), ca_file=tmp_path / "none.pem")
    assert "TLS" in ca.cause
    header = ask(fake_mlflow.uri, log_points(POINT), workspace="a\nb")
    assert header.verdict is Verdict.RETRY
    assert fake_mlflow.requests == []


def test_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    import ssl
    import subprocess
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl is not there")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"store_type": "SqlStore"}')

        def log_message(self, *_: Any) -> None:
            return

    class Quiet(HTTPServer):
        def handle_error(self, *_: Any) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        uri = f"https://127.0.0.1:{server.server_port}"
        refused = ask(uri, lambda client: client.server_info(TIMEOUT_S))
        assert "TLS" in refused.cause
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in refused.remedy
        assert ask(uri, lambda client: client.server_info(TIMEOUT_S), ca_file=certificate).is_delivered
        assert ask(uri, lambda client: client.server_info(TIMEOUT_S), insecure_tls=True).is_delivered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_closed_client_asks_nobody(fake_mlflow: FakeMlflow) -> None:
    async def scenario() -> Outcome:
        client = MlflowClient(Settings(tracking_uri=fake_mlflow.uri))
        await client.close()
        return await client.server_info(TIMEOUT_S)

    assert asyncio.run(scenario()).verdict is Verdict.RETRY
    assert fake_mlflow.requests == []


def test_connection_is_kept_for_less_than_the_server_keeps_it() -> None:
    transport = MlflowClient(Settings())._http._connected()
    assert isinstance(transport, AsyncioTransport)
    assert transport._keepalive_s < 5.0


def test_request_looks_for_no_module(fake_mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there is looked for in every folder, each time; and a fork must not come in between."""
    wanted: list[str] = []

    class Watcher:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            wanted.append(name)

    async def twice(client: MlflowClient) -> Outcome:
        await log_points(POINT)(client)
        monkeypatch.setattr(sys, "meta_path", [Watcher, *sys.meta_path])
        outcome: Outcome = await log_points(POINT)(client)
        monkeypatch.undo()
        return outcome

    ask(fake_mlflow.uri, twice)
    assert wanted == []


def test_next_loop_gets_a_new_connection(fake_mlflow: FakeMlflow) -> None:
    client = MlflowClient(Settings(tracking_uri=fake_mlflow.uri))

    async def scenario() -> Outcome:
        try:
            return await client.server_info(TIMEOUT_S)
        finally:
            await client.leave_loop()

    assert [asyncio.run(scenario()).is_delivered for _ in range(2)] == [True, True]
