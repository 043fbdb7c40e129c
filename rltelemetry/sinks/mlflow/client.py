"""MLflow over HTTP: each call returns an `Outcome` and none raises. The only file that imports httpx.

Bodies are built here, field by field, with exact types: MLflow answers 200 to a body with one wrong type and silently
loses everything behind it (a bare NaN, a float step, a lower-case "nan").
"""

import base64
import configparser
import json
import logging
import math
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.outcome import Outcome, classify, transport_failure
from rltelemetry.types import MetricPoint

__all__ = ["MAX_PARAM", "MAX_PARAMS", "MAX_TAG", "MlflowClient"]

API: Final = "/api/2.0/mlflow/"

KEEPALIVE_S: Final = 3.0
"""MLflow closes idle connections after 5 s; a connection reused at that moment fails."""

MAX_PARAMS: Final = 100
MAX_PARAM: Final = 6000
MAX_TAG: Final = 8000
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class MlflowClient:
    """One server, one connection at a time.

    Args:
        settings: address, credentials, TLS.
        transport: stands in for the network in tests.
        environ: where HOME is, for MLflow's own credentials file.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.base_uri = settings.tracking_uri
        self._settings = settings
        self._transport = transport
        self._headers = _headers(settings, environ)
        self._is_local = urlsplit(settings.tracking_uri).hostname in LOOPBACK
        self._http: httpx.AsyncClient | None = None
        self._defect = ""
        # Their INFO lines print the whole address of each request.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger(name).level))

    async def server_info(self, timeout_s: float) -> Outcome:
        """Ask what server this is; open without credentials, and subject to the Host check."""
        return await self._request("GET", "/api/3.0/mlflow/server-info", timeout_s)

    async def get_experiment(self, experiment_id: str, timeout_s: float) -> Outcome:
        """Look an experiment up by id."""
        return await self._request("GET", API + "experiments/get", timeout_s, query={"experiment_id": experiment_id})

    async def get_experiment_by_name(self, name: str, timeout_s: float) -> Outcome:
        """Look an experiment up by name."""
        return await self._request("GET", API + "experiments/get-by-name", timeout_s, query={"experiment_name": name})

    async def create_experiment(self, name: str, timeout_s: float) -> Outcome:
        """Make an experiment."""
        return await self._post("experiments/create", {"name": name}, timeout_s)

    async def create_run(self, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        """Make a run; not idempotent: look for the client's own tag before a repeat."""
        return await self._post("runs/create", body, timeout_s)

    async def get_run(self, run_id: str, timeout_s: float) -> Outcome:
        """Look a run up."""
        return await self._request("GET", API + "runs/get", timeout_s, query={"run_id": run_id})

    async def find_runs(self, experiment_id: str, tag: str, value: str, timeout_s: float) -> Outcome:
        """Look for runs with a tag; `value` must not hold a quote."""
        body = {"experiment_ids": [experiment_id], "filter": f"tags.`{tag}` = '{value}'", "max_results": 5}
        return await self._post("runs/search", body, timeout_s)

    async def update_run(self, run_id: str, status: str, end_time_ms: int | None, timeout_s: float) -> Outcome:
        """Set a run's status, and its end time if there is one."""
        end = {} if end_time_ms is None else {"end_time": int(end_time_ms)}
        return await self._post("runs/update", {"run_id": run_id, "status": status, **end}, timeout_s)

    async def log_points(self, run_id: str, points: Sequence[MetricPoint], timeout_s: float) -> Outcome:
        """Store metric points; equal points are stored once, however often they are sent."""
        metrics = [
            {"key": key, "value": _json_number(value), "timestamp": int(stamp), "step": int(step)}
            for key, value, step, stamp in points
        ]
        return await self._post("runs/log-batch", {"run_id": run_id, "metrics": metrics}, timeout_s)

    async def log_params(self, run_id: str, params: Mapping[str, str], timeout_s: float) -> Outcome:
        """Store at most MAX_PARAMS parameters; a value that differs from a stored one is refused."""
        listed = [{"key": key, "value": value[:MAX_PARAM]} for key, value in params.items()]
        return await self._post("runs/log-batch", {"run_id": run_id, "params": listed}, timeout_s)

    async def set_tags(self, run_id: str, tags: Mapping[str, str], timeout_s: float) -> Outcome:
        """Set tags."""
        listed = [{"key": key, "value": value[:MAX_TAG]} for key, value in tags.items()]
        return await self._post("runs/log-batch", {"run_id": run_id, "tags": listed}, timeout_s)

    async def send_traces(self, spans: bytes, experiment_id: str, run_id: str | None, timeout_s: float) -> Outcome:
        """Store encoded spans; idempotent."""
        headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment_id}
        if run_id:
            headers["x-mlflow-run-id"] = run_id
        return await self._request("POST", "/v1/traces", timeout_s, body=spans, headers=headers, needs_json=False)

    async def put_artifact(self, artifact_path: str, path: Path, timeout_s: float) -> Outcome:
        """Upload a file to the server's artifact store."""
        try:
            body = path.read_bytes()
        except OSError as error:
            return classify(400, {}, f"the file cannot be read: {error.strerror}".encode())
        route = f"/api/2.0/mlflow-artifacts/artifacts/{artifact_path}"
        return await self._request("PUT", route, timeout_s, body=body, needs_json=False)

    def forget_loop(self) -> None:
        """Drop the connection without closing it: its loop is gone."""
        self._http = None

    async def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    async def _post(self, route: str, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        encoded = json.dumps(body, allow_nan=False).encode()
        return await self._request("POST", API + route, timeout_s, body=encoded, headers=JSON)

    async def _request(
        self,
        method: str,
        route: str,
        timeout_s: float,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        needs_json: bool = True,
    ) -> Outcome:
        try:
            http = self._connected()
            answer = await http.request(
                method, self.base_uri + route, params=query, content=body, headers=headers, timeout=timeout_s
            )
        except httpx.TimeoutException as error:
            return self._failed("timeout", error, is_timeout=not isinstance(error, httpx.ConnectTimeout))
        except httpx.ConnectError as error:
            return self._failed(_kind_of_connect_error(error), error)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return self._failed("reset" if isinstance(error, httpx.TransportError) else "other", error)
        return classify(answer.status_code, answer.headers, answer.content, needs_json=needs_json)

    def _failed(self, kind: str, error: Exception, *, is_timeout: bool = False) -> Outcome:
        text = str(error) or type(error).__name__
        return transport_failure(kind, text, is_timeout=is_timeout, is_local=self._is_local)

    def _connected(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                headers=self._headers,
                verify=_tls(self._settings),
                trust_env=False,  # no proxy variable may reroute loopback
                follow_redirects=False,
                limits=httpx.Limits(max_connections=2, keepalive_expiry=KEEPALIVE_S),
                transport=self._transport,
            )
        return self._http


JSON: Final = {"Content-Type": "application/json"}


def _json_number(value: float) -> float | str:
    """MLflow takes NaN as this very string; as a literal it would store a zero and lose the rest of the batch."""
    return "NaN" if math.isnan(value) else float(value)


def _headers(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    headers = {"User-Agent": "rltelemetry"}
    user, password, token = _credentials(settings, environ)
    if user:
        userinfo = f"{user}:{password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(userinfo).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    if settings.workspace:
        headers["X-MLFLOW-WORKSPACE"] = settings.workspace
    return headers


def _credentials(settings: Settings, environ: Mapping[str, str]) -> tuple[str, str, str]:
    """User, password and token: the settings', else those of MLflow's own credentials file."""
    user = settings.username or ""
    password = settings.password.get_secret_value() if settings.password else ""
    token = settings.token.get_secret_value() if settings.token else ""
    if user or token:
        return user, password, token
    file = Path(environ.get("HOME", "~")).expanduser() / ".mlflow" / "credentials"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
        section = parser["mlflow"]
    except (OSError, UnicodeError, configparser.Error, KeyError):
        return "", "", ""
    return section.get("mlflow_tracking_username", ""), section.get("mlflow_tracking_password", ""), ""


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if urlsplit(settings.tracking_uri).scheme != "https":
        return False  # nothing to verify, and loading the certificates of the world costs 20 ms
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    if settings.client_cert_file:
        context.load_cert_chain(str(settings.client_cert_file))
    if settings.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _kind_of_connect_error(error: httpx.ConnectError) -> str:
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return "tls"
    if any(hint in text for hint in ("name or service", "nodename", "resolution", "no address", "getaddrinfo")):
        return "resolve"
    return "refused"
