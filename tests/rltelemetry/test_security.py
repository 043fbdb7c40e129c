"""Planted secrets are found nowhere: console, warnings, tags, parameters, points, traces, spool, command line."""

import os
import re
from pathlib import Path

import pytest
from programs import run_script

from rltelemetry.cli import main
from rltelemetry.testing import FakeMlflow, ToxicProxy

SECRET = "hunter2correcthorse"
PLANTS = f"""
import logging
logging.getLogger().setLevel(logging.DEBUG)
class Holder:
    def __repr__(self): return "Holder(token={SECRET})"
telemetry = rltelemetry.configure(
    console="json", log_filter="debug", system_metrics=False, exit_timeout_s=10.0, request_timeout_s=0.5,
    tags={{"api_key": "{SECRET}", "source": "https://me:{SECRET}@example.org/x.git"}},
)
telemetry.log_params({{
    "password": "{SECRET}", "net": {{"auth_token": "{SECRET}"}}, "uri": "postgres://me:{SECRET}@host/db",
    "header": "Authorization: Bearer {SECRET}",
}})
telemetry.set_tags({{"secret_key": "{SECRET}", "link": "http://h/x?token={SECRET}"}})
with telemetry.span("update", api_key="{SECRET}", url="http://me:{SECRET}@h/"):
    log.info("call", authorization="Bearer {SECRET}", uri=os.environ["MLFLOW_TRACKING_URI"], loss=1.0, step=1)
    log.info("http://me:{SECRET}@host/ Authorization: Basic {SECRET}", step=2)
    log.bind(password="{SECRET}").info("bound", holder=Holder(), step=3)
    logging.getLogger("lib").warning("GET http://me:{SECRET}@host/?access_token={SECRET}")
    try:
        raise ConnectionError("cannot reach http://me:{SECRET}@host/")
    except ConnectionError:
        log.exception("failed")

print("ready", flush=True)
"""


def everything_stored(server: FakeMlflow) -> str:
    """All that the server knows and was told, but for the header that must carry the credentials."""
    told = [
        f"{request.path} {request.query} {request.body!r} "
        f"{ {name: value for name, value in request.headers.items() if name != 'authorization'} }"
        for request in server.requests
    ]
    runs = [f"{run} {server.points(run.run_id)}" for run in server.runs()]
    traces = [str(trace) for trace in server.traces()]
    return "\n".join([*told, *runs, *traces])


def count(text: str | bytes) -> int:
    raw = text if isinstance(text, bytes) else text.encode()
    return len(re.findall(SECRET.encode(), raw))


@pytest.fixture
def guarded() -> FakeMlflow:
    """A server that asks for the secret."""
    return FakeMlflow(username="me", password=SECRET, token=SECRET)


@pytest.mark.parametrize("way", ["userinfo", "variables", "token"])
def test_credentials_and_planted_secrets_are_found_nowhere(guarded: FakeMlflow, way: str) -> None:
    with guarded as server:
        uri = server.uri
        if way == "userinfo":
            uri = uri.replace("http://", f"http://me:{SECRET}@")
        elif way == "variables":
            os.environ |= {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET}
        else:
            os.environ["MLFLOW_TRACKING_TOKEN"] = SECRET
        ended = run_script(PLANTS, uri)
        assert ended.code == 0, ended.output
        (run,) = server.runs()
        assert run.params["password"] == "***"
        assert len(server.points(run.run_id)) == 1
        assert len(server.traces()) >= 1
        assert count(ended.output) == 0, ended.output
        assert count(everything_stored(server)) == 0


@pytest.mark.parametrize("mode", ["reset", "garbage", "cut_reply", "hang", "canned"])
def test_failing_requests_say_nothing_of_their_credentials(guarded: FakeMlflow, mode: str, tmp_path: Path) -> None:
    os.environ["RLTELEMETRY_SPOOL_DIR"] = str(tmp_path)
    with guarded as server, ToxicProxy(server.port) as proxy:
        if mode == "canned":
            echo = f"you sent Authorization: Bearer {SECRET} to http://me:{SECRET}@{proxy.port}".encode()
            proxy.answer_with(503, {"Content-Type": "text/html"}, echo)
        else:
            proxy.set_mode(mode)  # type: ignore[arg-type]
        uri = proxy.uri.replace("http://", f"http://me:{SECRET}@")
        ended = run_script(PLANTS.replace("exit_timeout_s=10.0", "exit_timeout_s=1.5"), uri)
        assert ended.code == 0, ended.output
        assert mode == "hang" or "cannot be reached" in ended.output
        assert count(ended.output) == 0, ended.output
        for file in tmp_path.iterdir():
            assert count(file.read_bytes()) == 0, file


def test_wrong_credentials_are_not_repeated_to_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeMlflow(username="me", password="right") as server:
        ended = run_script(PLANTS, server.uri.replace("http://", f"http://me:{SECRET}@"))
        assert "metrics are off" in ended.output
        assert count(ended.output) == 0
        os.environ["MLFLOW_TRACKING_URI"] = server.uri.replace("http://", f"http://me:{SECRET}@")
        assert main(["sync"]) == 1
        said = capsys.readouterr()
        assert count(said.out + said.err) == 0


def test_no_flag_takes_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sync", "--help"])
    assert not re.search("password|token", capsys.readouterr().out)


def test_unusable_setting_is_complained_about_without_its_value() -> None:
    body = f"""
    try:
        rltelemetry.configure(tracking_uri="ftp://me:{SECRET}@host", token="{SECRET}")
    except rltelemetry.SettingsError as error:
        print("REFUSED", error)
    """
    ended = run_script(body, "http://127.0.0.1:9")
    assert "REFUSED" in ended.output
    assert count(ended.output) == 0
