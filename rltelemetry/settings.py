"""Every setting of the pipeline, and the environment variables behind them.

Precedence: keyword argument > environment > default. A keyword that cannot be used raises `SettingsError`; an
environment variable that cannot be used is named in a warning and ignored, since it must not stop a training.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from rltelemetry.errors import SettingsError
from rltelemetry.places import state_directory

__all__ = ["ENVIRONMENT", "Resolved", "Settings", "Variable", "resolve"]


class Settings(BaseModel):
    """How one pipeline behaves; immutable. Durations are seconds, sizes bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    service_name: str = Field("rltelemetry", description="Name of this program in traces and tags.")
    console: Literal["auto", "dashboard", "json", "off"] = Field(
        "auto", description="What stderr shows: dashboard lines on a terminal, JSON lines otherwise (auto)."
    )
    log_filter: str | None = Field(
        None, description="Directives such as 'info,httpx=warning'; replaces log_level and backend_logs_visible."
    )
    log_level: str = Field("info", description="Least level that is logged where no directive says otherwise.")
    backend_logs_visible: bool = Field(
        False, description="Show the logs of torch, httpx, urllib3, opentelemetry and other chatty libraries."
    )
    metric_labels: str | dict[str, str] = Field(
        default="", description="Console labels, 'key=Label,...'; unknown keys are title-cased."
    )

    tracking_uri: str = Field("http://localhost:5000", description="Where MLflow answers; may carry a path.")
    username: str | None = Field(None, description="Basic authentication; wins over a token.")
    password: SecretStr | None = Field(None, description="Basic authentication.")
    token: SecretStr | None = Field(None, description="Bearer token.")
    workspace: str | None = Field(None, description="MLflow workspace, where the server has workspaces.")
    ca_file: Path | None = Field(None, description="Certificate authority that signed the server's certificate.")
    client_cert_file: Path | None = Field(None, description="Client certificate and key in one PEM file.")
    insecure_tls: bool = Field(False, description="Accept any certificate; says so loudly.")

    metrics: bool = Field(True, description="Export metric points to MLflow.")
    traces: bool = Field(True, description="Export spans, to MLflow and to any OTLP back end that is configured.")
    experiment_id: str | None = Field(None, description="MLflow experiment; '0' if neither id nor name is given.")
    experiment_name: str | None = Field(None, description="MLflow experiment by name; created if it is missing.")
    run_id: str | None = Field(None, description="Log into this MLflow run; a new one is created otherwise.")
    client_uuid: str | None = Field(
        None,
        pattern=r"^[0-9A-Za-z-]{8,64}$",
        description="This client's own name for the run: a program that gives it again goes on in that run.",
    )
    run_name: str | None = Field(None, description="Name of a new run; MLflow invents one otherwise.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the run.")
    system_metrics: bool = Field(True, description="Sample CPU, memory, disk, network, GPU (needs psutil).")
    system_metrics_interval_s: float = Field(10.0, gt=0, description="Seconds between two samples.")
    system_metrics_first_step: int = Field(0, ge=0, description="Step of the first sample: a continued run's next.")
    trace_interval_s: float = Field(
        0.0, ge=0, description="At most one root span per so many seconds; 0 traces every one."
    )

    spool_dir: Path | None = Field(
        None, description="Where unsent data waits; $XDG_STATE_HOME/rltelemetry if not given."
    )
    spool_max_bytes: int = Field(512 * 2**20, ge=2**20, description="Above this the oldest rows are dropped.")
    spool_durability: Literal["normal", "full"] = Field(
        "normal", description="'full' survives a power cut to the last drain, at an fsync per drain."
    )
    queue_events: int = Field(16_384, ge=16, description="Events that may wait for the worker; newer are dropped.")
    queue_bytes: int = Field(32 * 2**20, ge=2**16, description="Bytes of large values that may wait, likewise.")
    flush_points: int = Field(50, ge=1, le=1000, description="Send when so many points wait, once a second at most.")
    flush_interval_s: float = Field(1.0, gt=0, description="Send at least this often.")
    request_timeout_s: float = Field(3.0, gt=0, description="First time-out of a request; retries wait longer.")
    request_attempts: int = Field(3, ge=1, description="Tries before a batch waits for the server's return.")
    startup_s: float = Field(
        0.0, ge=0, description="A server that cannot be reached is taken for one that is starting for so long."
    )
    exit_timeout_s: float = Field(3.0, ge=0, description="Longest that leaving the program may wait for delivery.")
    handle_signals: bool = Field(
        True, description="End the run KILLED on SIGTERM and SIGHUP (main thread, default handlers only)."
    )

    @field_validator("tracking_uri")
    @classmethod
    def _is_http(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
            raise ValueError(
                f"got {shown!r}; expected http://HOST:PORT or https://HOST. "
                "Start a server with `rltelemetry up` or `mlflow server` and give its address."
            )
        return uri.rstrip("/")

    @model_validator(mode="before")
    @classmethod
    def _userinfo_becomes_credentials(cls, fields: Any) -> Any:
        """Move `user:password@` out of the address at once, so that no later text can show it."""
        uri = fields.get("tracking_uri") if isinstance(fields, dict) else None
        if not isinstance(uri, str) or "@" not in uri:
            return fields
        parts = urlsplit(uri)
        userinfo, _, host = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        clean = {**fields, "tracking_uri": urlunsplit(parts._replace(netloc=host))}
        if user and not fields.get("username"):
            clean |= {"username": unquote(user), "password": SecretStr(unquote(password))}
        return clean

    @property
    def spools(self) -> Path:
        """The directory in which unsent data waits.

        Raises:
            SettingsError: none is given, and this user has no usual place.
        """
        return self.spool_dir or state_directory()


class Variable(NamedTuple):
    """An environment variable behind a setting; the first name that is set and not empty counts."""

    field: str
    names: tuple[str, ...]
    parse: Callable[[str], Any] = str


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError("expected true or false")


ENVIRONMENT: tuple[Variable, ...] = (
    Variable("service_name", ("OTEL_SERVICE_NAME",)),
    Variable("console", ("RLTELEMETRY_CONSOLE",)),
    Variable("log_filter", ("RLTELEMETRY_LOG", "RUST_LOG")),
    Variable("metric_labels", ("RLTELEMETRY_METRIC_LABELS", "RUST_RL_METRIC_LABELS")),
    Variable("username", ("MLFLOW_TRACKING_USERNAME",)),
    Variable("password", ("MLFLOW_TRACKING_PASSWORD",)),
    Variable("token", ("MLFLOW_TRACKING_TOKEN",)),
    Variable("tracking_uri", ("MLFLOW_TRACKING_URI",)),  # after the credentials, which win over those in an address
    Variable("workspace", ("MLFLOW_WORKSPACE",)),
    Variable("ca_file", ("MLFLOW_TRACKING_SERVER_CERT_PATH",)),
    Variable("client_cert_file", ("MLFLOW_TRACKING_CLIENT_CERT_PATH",)),
    Variable("insecure_tls", ("MLFLOW_TRACKING_INSECURE_TLS",), _flag),
    Variable("traces", ("OTEL_SDK_DISABLED",), lambda text: not _flag(text)),
    Variable("experiment_id", ("MLFLOW_EXPERIMENT_ID",)),
    Variable("experiment_name", ("MLFLOW_EXPERIMENT_NAME",)),
    Variable("run_id", ("MLFLOW_RUN_ID",)),
    Variable("run_name", ("MLFLOW_RUN_NAME",)),
    Variable("system_metrics", ("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",), _flag),
    Variable("system_metrics_interval_s", ("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL",), float),
    Variable("spool_dir", ("RLTELEMETRY_SPOOL_DIR",)),
    Variable("exit_timeout_s", ("RLTELEMETRY_EXIT_TIMEOUT_S",), float),
)
"""Every environment variable that this package reads, but for OTEL_EXPORTER_OTLP_*, NO_COLOR and FORCE_COLOR."""


class Resolved(NamedTuple):
    """The settings in force, where each one came from that is not a default, what is ignored, and what is risky."""

    settings: Settings
    sources: dict[str, str]
    ignored: list[str]
    risks: list[str]

    def aimed_at(self, uri: str) -> Settings:
        """Return the settings for a server that data itself names, unless an argument names another one.

        Credentials never go where they do not belong: those of a configured server stay with it.
        """
        source = self.sources.get("tracking_uri")
        if source == "argument" or _server_of(uri) == _server_of(self.settings.tracking_uri):
            return self.settings
        secrets = {"username": None, "password": None, "token": None} if source else {}
        return self.settings.model_copy(update={"tracking_uri": uri, **secrets})


def resolve(fields: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Resolved:
    """Join keyword arguments, environment and defaults.

    Args:
        fields: fields of `Settings`; None stands for "not given".
        environ: the environment.

    Raises:
        SettingsError: a keyword argument is unknown or cannot be used.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    sources = dict.fromkeys(given, "argument")
    given |= _set_fields(settings)
    ignored: list[str] = []
    risks: list[str] = []
    for variable in ENVIRONMENT:
        name = next((name for name in variable.names if environ.get(name)), None)
        if name is None or variable.field in given:
            continue
        try:
            settings = Settings(**{**given, variable.field: variable.parse(environ[name])})
        except ValueError as error:
            reason = _explain(error) if isinstance(error, ValidationError) else str(error)
            ignored.append(f"environment variable {name} is ignored: {reason}")
            continue
        given |= _set_fields(settings)
        sources[variable.field] = name
    if settings.insecure_tls:
        source = sources.get("insecure_tls", "insecure_tls")
        risks.append(f"{source} is set: the server's certificate is not checked, and anybody on the way can read all")
    return Resolved(settings, sources, ignored, risks)


def _server_of(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.scheme, parts.netloc


def _set_fields(settings: Settings) -> dict[str, Any]:
    """What was given, and the credentials that an address held."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _explain(error: ValidationError) -> str:
    """One line: `field: what is wrong`, without the value, which may be a secret."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_input=False, include_url=False)
    )
