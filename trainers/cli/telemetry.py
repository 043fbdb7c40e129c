"""From the command line to rltelemetry: which settings are in force, and where MLflow is.

Precedence: flag > environment > YAML > default. rltelemetry knows arguments, environment and defaults; here the
YAML's values are held back where an environment variable speaks, and the flags' are not.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from rltelemetry.filtering import BACKEND_LOGGERS, BACKEND_THRESHOLD, LEVELS
from rltelemetry.settings import ENVIRONMENT, resolve
from trainers.cli.arguments import Arguments
from trainers.cli.resumption import Saved
from trainers.config import LoggingConfig, RunConfig

__all__ = ["EMITTED", "Servers", "choose_server", "steps_already_there", "telemetry_fields"]

EMITTED: Final = "emitted.json"
"""What an orderly end notes beside the checkpoints: the last step of each category."""

RIVALS: Final = {
    "log_level": "log_filter",
    "backend_logs_visible": "log_filter",
    "experiment_id": "experiment_name",
    "experiment_name": "experiment_id",
}
"""Settings that another one makes void: what the environment says of the rival outranks the YAML, too."""


STARTUP_S: Final = 60.0
"""Longest that our own server takes. A short training is over before it is up: its user would find an empty page."""


class Server(Protocol):
    """An MLflow server of our own."""

    @property
    def uri(self) -> str:
        """Where it answers, or will."""

    @property
    def is_new(self) -> bool:
        """Whether it has just been started."""


class Servers(Protocol):
    """What is asked of `rltelemetry.server`."""

    def find(self) -> str | None:
        """The address of an MLflow server that answers, if there is one."""

    def ensure(self, directory: Path, /) -> Server:
        """The directory's own server, started if need be."""


def telemetry_fields(service_name: str, arguments: Arguments[RunConfig], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the keyword arguments of `rltelemetry.configure`.

    Raises:
        SettingsError: one of them cannot be used.
    """
    in_environment = {variable.field for variable in ENVIRONMENT if any(map(environ.get, variable.names))}
    flags = arguments.logging_flags
    config = arguments.config
    run_name = f"{service_name} {config.environment.task} seed {config.training_core.seed}"
    values = {
        "service_name": service_name,
        "run_name": run_name,
        **config.logging.model_dump(exclude_none=True, exclude={"artifacts"}),
    }
    fields = {
        name: value
        for name, value in values.items()
        if name in flags or not (in_environment | flags) & {name, RIVALS.get(name, name)}
    }
    if "log_filter" in in_environment and flags & {"log_level", "backend_logs_visible"}:
        fields["log_filter"] = _as_filter(config.logging)
    if arguments.saved is not None and "run_id" not in flags:
        fields |= {name: value for name, value in arguments.saved.checkpoint.telemetry.items() if value is not None}
    if arguments.is_offline:
        fields |= {"metrics": False, "traces": False}
    if arguments.is_quiet:
        fields["console"] = "off"
    resolve(fields, environ)  # a mistake is said now, not after torch has been loaded
    return fields


def steps_already_there(
    fields: Mapping[str, Any], saved: Saved[Any] | None, complain: Callable[[str], None]
) -> dict[str, int]:
    """Return the last step of each category that the run to be continued has, whether it was delivered or not."""
    if saved is None:
        return {}
    # Loads torch and httpx, which everything before this call does without.
    from rltelemetry.resumption import last_steps, stored_steps

    settings = resolve(fields).settings
    stored = stored_steps(settings, settings.run_id, settings.client_uuid)
    return last_steps([*stored.items(), *_noted_steps(saved.path.parent, complain).items()])


def choose_server(
    fields: Mapping[str, Any], environ: Mapping[str, str], say: Callable[[str], None], servers: Servers | None = None
) -> dict[str, Any]:
    """Decide where MLflow is, without waiting for it, and say so.

    The one that is given; else the one that answers at the default address; else one of our own, started in the
    background. Whatever goes wrong here costs the training nothing: data waits in the spool.

    Returns:
        What to add to the keyword arguments of `rltelemetry.configure`.
    """
    resolved = resolve(fields, environ)
    if not resolved.settings.metrics and not resolved.settings.traces:
        say("MLflow: off")
        return {}
    if "tracking_uri" in resolved.sources:
        say(f"MLflow: {resolved.settings.tracking_uri}")
        return {}
    servers = servers or _servers()
    try:
        if (found := servers.find()) is not None:
            say(f"MLflow: {found}")
            return {"tracking_uri": found}
        server = servers.ensure(Path.cwd())
    except Exception as error:
        say(f"MLflow: none is running, and none could be started: {error}")
        say(f"MLflow: metrics wait on disk for {resolved.settings.tracking_uri}")
        return {}
    say(f"MLflow: {server.uri} ({'starting; ' if server.is_new else ''}stop it with 'rltelemetry down')")
    return {"tracking_uri": server.uri, "startup_s": STARTUP_S if server.is_new else 0.0}


def _noted_steps(folder: Path, complain: Callable[[str], None]) -> dict[str, int]:
    """What the last orderly end has noted; nothing if that cannot be read."""
    from trainers.checkpoint import read_text

    text = read_text(folder, EMITTED)
    if text is None:
        return {}
    try:
        return {str(category): int(step) for category, step in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        complain(f"{folder / EMITTED}: is no note of what was logged, or only a part; some steps may be logged twice.")
        return {}


def _servers() -> Servers:
    from rltelemetry import server

    return server


def _as_filter(logging: LoggingConfig) -> str:
    """The flags' level as directives: they must outrank directives from the environment, which outrank a level."""
    level = logging.log_level
    if logging.backend_logs_visible:
        return level
    backend = level if LEVELS[level] > BACKEND_THRESHOLD else "error"
    return ",".join([level, *(f"{name}={backend}" for name in BACKEND_LOGGERS)])
