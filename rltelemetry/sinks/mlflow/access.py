"""Who we are to the server: credentials, workspace, certificates."""

import base64
import configparser
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rltelemetry.settings import Settings

__all__ = ["request_headers", "tls_context"]


def request_headers(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of every request; Basic wins over a token, as in MLflow."""
    headers = {"User-Agent": "rltelemetry", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
    user, password, token = _credentials(settings, environ)
    if user:
        userinfo = f"{user}:{password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(userinfo).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    if settings.workspace:
        headers["X-MLFLOW-WORKSPACE"] = settings.workspace
    return headers


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what verifies the server; None where there is nothing to verify: it speaks plain HTTP.

    Raises:
        OSError: a certificate file cannot be read (`ssl.SSLError` is one, too).
    """
    if urlsplit(settings.tracking_uri).scheme != "https":
        return None
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    if settings.client_cert_file:
        context.load_cert_chain(str(settings.client_cert_file))
    if settings.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _credentials(settings: Settings, environ: Mapping[str, str]) -> tuple[str, str, str]:
    """User, password and token: the settings', else those of MLflow's own credentials file."""
    user = settings.username or ""
    password = settings.password.get_secret_value() if settings.password else ""
    token = settings.token.get_secret_value() if settings.token else ""
    if user or token:
        return user, password, token
    parser = configparser.ConfigParser(interpolation=None)
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
        parser.read(home / ".mlflow" / "credentials")
        section = parser["mlflow"]
    except (OSError, RuntimeError, UnicodeError, configparser.Error, KeyError):
        return "", "", ""
    return section.get("mlflow_tracking_username", ""), section.get("mlflow_tracking_password", ""), ""
