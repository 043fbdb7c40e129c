"""The failures of the runbook, each produced for real: servers of every kind, signals, tunnels of a real sshd."""

import importlib.util
import socket
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from rltelemetry.doctor import Examination, Finding, Level
from rltelemetry.settings import resolve
from rltelemetry.testing import MlflowServer, RealMlflow, SshServer

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

PASSWORD = "correct horse battery"
PATIENCE_S = 10.0
"""Long enough for a busy machine, where an answer must come."""

SLEEPING_S = 1.0
"""How long to wait where none can come."""


class Special(NamedTuple):
    """Servers that differ from the shared one."""

    prefixed: RealMlflow
    on_files: RealMlflow
    with_credentials: RealMlflow


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Special]:
    """All of them are started at once, which takes half a minute: what needs them is not in the quick tests."""
    for package in ("mlflow", "flask_wtf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    directories = [tmp_path_factory.mktemp(name) for name in Special._fields]
    secrets = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    servers = Special(
        RealMlflow(directories[0], static_prefix="/mlf"),
        RealMlflow(
            directories[1], options=("--backend-store-uri", "./mlruns"), environ={"MLFLOW_ALLOW_FILE_STORE": "true"}
        ),
        RealMlflow(directories[2], options=("--app-name", "basic-auth"), environ=secrets),
    )
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.stop()


def examine(uri: str, *, timeout_s: float = PATIENCE_S, **fields: str) -> dict[str, Finding]:
    resolved = resolve({"tracking_uri": uri, "request_timeout_s": timeout_s, **fields}, {})
    return {finding.check: finding for finding in Examination(resolved).run()}


def failures(findings: dict[str, Finding]) -> dict[str, Finding]:
    return {check: finding for check, finding in findings.items() if finding.is_failure}


def only_failure(findings: dict[str, Finding]) -> Finding:
    (failure,) = failures(findings).values()
    return failure


@pytest.mark.faults
def test_missing_prefix(special: Special) -> None:
    uri = special.prefixed.uri
    failure = only_failure(examine(uri.removesuffix("/mlf")))
    assert (failure.check, "--static-prefix" in failure.remedy) == ("mlflow", True)
    assert only_failure(examine(f"{uri}/v1/traces")).remedy == f"Give the address {uri}."
    assert failures(examine(uri)) == {}


@pytest.mark.faults
def test_file_store(special: Special) -> None:
    findings = examine(special.on_files.uri)
    failure = only_failure(findings)
    assert failure.check == "store"
    assert "FileStore" in failure.seen
    assert findings["metric probe"].level is Level.OK


@pytest.mark.faults
def test_missing_credentials(special: Special) -> None:
    uri = special.with_credentials.uri
    failure = only_failure(examine(uri))
    assert (failure.check, "sent were none" in failure.seen) == ("credentials", True)
    failure = only_failure(examine(uri, username="admin", password="wrong"))
    assert (failure.check, "those of admin" in failure.seen) == ("credentials", True)
    findings = examine(uri, username="admin", password=PASSWORD)
    assert failures(findings) == {}
    assert findings["trace probe"].level is Level.OK


@pytest.mark.faults
def test_stopped_server_is_asleep_and_then_well_again(special: Special) -> None:
    server = special.prefixed
    server.suspend()
    try:
        failure = only_failure(examine(server.uri, timeout_s=SLEEPING_S))
    finally:
        server.resume()
    assert failure.check == "mlflow"
    assert "server is stopped" in failure.remedy
    assert failures(examine(server.uri)) == {}


@pytest.mark.faults
def test_server_that_is_down(special: Special) -> None:
    server = special.on_files
    server.stop()
    failure = only_failure(examine(server.uri))
    assert failure.check == "connection"
    assert "connection refused" in failure.seen


def port_of(server: MlflowServer) -> int:
    return urlsplit(server.uri).port or 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.tunnel
def test_tunnel_that_works_passes_every_check(mlflow_server: MlflowServer, ssh_server: SshServer) -> None:
    tunnel = ssh_server.tunnel(free_port(), port_of(mlflow_server))
    findings = examine(tunnel.uri)
    assert failures(findings) == {}
    assert findings["trace probe"].level is Level.OK
    tunnel.close()


@pytest.mark.tunnel
def test_tunnel_that_is_down(mlflow_server: MlflowServer, ssh_server: SshServer) -> None:
    tunnel = ssh_server.tunnel(free_port(), port_of(mlflow_server))
    ssh_server.end_sessions()
    tunnel.wait_for_end()
    failure = only_failure(examine(tunnel.uri))
    assert failure.check == "connection"
    assert "tunnel is down" in failure.remedy


@pytest.mark.tunnel
def test_mlflow_that_does_not_listen_behind_the_tunnel(ssh_server: SshServer) -> None:
    tunnel = ssh_server.tunnel(free_port(), free_port())
    failure = only_failure(examine(tunnel.uri))
    assert failure.check == "mlflow"
    assert "tunnel is up, but no MLflow server listens behind it" in failure.remedy
    tunnel.close()


@pytest.mark.tunnel
def test_laptop_that_sleeps_behind_the_tunnel(mlflow_server: MlflowServer, ssh_server: SshServer) -> None:
    tunnel = ssh_server.tunnel(free_port(), port_of(mlflow_server))
    tunnel.suspend()
    failure = only_failure(examine(tunnel.uri, timeout_s=SLEEPING_S))
    assert failure.check == "mlflow"
    assert "asleep" in failure.remedy
    tunnel.resume()
    assert failures(examine(tunnel.uri)) == {}
    tunnel.close()


@pytest.mark.tunnel
def test_second_tunnel_to_a_port_that_is_held_ends_at_once(mlflow_server: MlflowServer, ssh_server: SshServer) -> None:
    tunnel = ssh_server.tunnel(free_port(), port_of(mlflow_server))
    with pytest.raises(RuntimeError, match="remote port forwarding failed for listen port"):
        ssh_server.tunnel(tunnel.remote_port, port_of(mlflow_server))
    tunnel.close()
