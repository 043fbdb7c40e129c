"""Credentials and certificates: precedence as in MLflow, and verification on unless somebody says otherwise."""

import base64
import ssl
from pathlib import Path

import pytest

from rltelemetry.settings import Settings, resolve
from rltelemetry.sinks.mlflow.access import request_headers, tls_context


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def authorization(environ: dict[str, str], **fields: object) -> str | None:
    settings = resolve(fields, environ).settings
    return request_headers(settings, environ).get("Authorization")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, basic("u", "p")),
        (
            {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p", "MLFLOW_TRACKING_TOKEN": "t"},
            basic("u", "p"),
        ),
        ({"MLFLOW_TRACKING_URI": "http://u:p%40@localhost:5000"}, basic("u", "p@")),
    ],
)
def test_basic_wins_over_a_token(environ: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    assert authorization({**environ, "HOME": str(tmp_path)}) == expected


def test_mlflows_own_file_is_read_when_nothing_else_is_given(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = 100%\n"
    )
    assert authorization({"HOME": str(tmp_path)}) == basic("u", "100%")
    assert authorization({"HOME": str(tmp_path), "MLFLOW_TRACKING_TOKEN": "t"}) == "Bearer t"


@pytest.mark.parametrize("content", ["nonsense", "[other]\na = b\n", "\udcff"])
def test_file_that_makes_no_sense_is_no_reason_to_fail(tmp_path: Path, content: str) -> None:
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert authorization({"HOME": str(tmp_path)}) is None


def test_workspace_is_named_in_a_header() -> None:
    assert request_headers(Settings(workspace="team"), {})["X-MLFLOW-WORKSPACE"] == "team"
    assert "X-MLFLOW-WORKSPACE" not in request_headers(Settings(), {})


def test_plain_http_loads_no_certificates() -> None:
    assert tls_context(Settings(tracking_uri="http://localhost:5000")) is None


def test_certificates_are_verified_unless_that_is_switched_off() -> None:
    strict = tls_context(Settings(tracking_uri="https://host"))
    lax = tls_context(Settings(tracking_uri="https://host", insecure_tls=True))
    assert isinstance(strict, ssl.SSLContext)
    assert isinstance(lax, ssl.SSLContext)
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)


def test_missing_certificate_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tls_context(Settings(tracking_uri="https://host", ca_file=tmp_path / "none.pem"))
