"""What an answer of the server, or none, means for the data that was sent.

DELIVERED: a real success. RETRY: it will pass (no connection, time-out, overload). POISON: this very data is refused,
other data would be taken. HELD: nothing will be taken until somebody acts; the data waits.

A 200 alone proves nothing: a captive page answers so, too. And a 500 may be permanent; whoever sends decides that by
asking the server something harmless.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

from rltelemetry.redact import clean_text

__all__ = ["Outcome", "Verdict", "classify", "transport_failure"]

RETRIED_STATUSES: Final = frozenset({408, 425, 429})
TIMEOUT_STATUSES: Final = frozenset({408, 504})
SERVER_WIDE_STATUSES: Final = frozenset({0, 429, 502, 503})
POISON_STATUSES: Final = frozenset({400, 413, 422})
UNSUPPORTED_STATUSES: Final = frozenset({501, 505})
MAX_REASON: Final = 300
MAX_PAGE: Final = 4096
PAGE_TITLE: Final = re.compile(r"<title>([^<]+)</title>", re.IGNORECASE)
MAX_RETRY_AFTER_S: Final = 3600.0


class Verdict(Enum):
    """The four things that can become of a request."""

    DELIVERED = "delivered"
    RETRY = "retry"
    POISON = "poison"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        verdict: what to do with the data.
        status: the HTTP status; 0 if there was no answer.
        cause: what was seen, in words, without secrets.
        remedy: what a person can do about it.
        retry_after_s: the server's wish; a floor.
        is_timeout: whether the time was up: a repeat needs longer.
        is_uncertain: whether the request may have arrived, and its data may be stored already.
        answer: the JSON object of a success or of MLflow's own error.
        server_time_s: what time the server has, seconds since the epoch, where it was asked.
        is_own_fault: whether this program failed, and neither the server nor the way to it.
    """

    verdict: Verdict
    status: int = 0
    cause: str = ""
    remedy: str = ""
    retry_after_s: float = 0.0
    is_timeout: bool = False
    is_uncertain: bool = False
    answer: Mapping[str, Any] = field(default_factory=dict)
    server_time_s: float | None = None
    is_own_fault: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the server has taken it."""
        return self.verdict is Verdict.DELIVERED

    @property
    def is_server_wide(self) -> bool:
        """Whether it would have happened to any other request, too."""
        return not self.is_own_fault and (self.status in SERVER_WIDE_STATUSES or self.retry_after_s > 0)

    @property
    def error_code(self) -> str:
        """MLflow's name of the error, if the answer is MLflow's."""
        return str(self.answer.get("error_code", "")) if self.status >= 400 else ""

    @property
    def is_missing(self) -> bool:
        """Whether MLflow itself does not know what it was asked for; a route that is not there has no error's name."""
        return self.status == 404 and bool(self.error_code)

    def __str__(self) -> str:
        return f"{self.cause.rstrip('.')}. {self.remedy}".rstrip()


def classify(status: int, headers: Mapping[str, str], body: bytes, *, needs_json: bool = True) -> Outcome:
    """Judge an answer.

    Args:
        status: the HTTP status.
        headers: the answer's headers; lower-case names.
        body: the answer's body.
        needs_json: whether a success must be a JSON object; the trace route answers with an empty body.
    """
    answer = _json_object(body)
    text = clean_text(str((answer or {}).get("message") or _page_text(body)), MAX_REASON)
    seen = f"MLflow answered {status}: {text}" if answer is not None else f"got HTTP {status}: {text}"
    known = answer or {}
    if 200 <= status < 300:
        is_page = "text/html" in headers.get("content-type", "")
        if (answer is None and needs_json) or is_page:
            remedy = "Something else than MLflow answers at this address (a login page, a proxy): check the address."
            return Outcome(Verdict.HELD, status, f"got HTTP {status} without a JSON object", remedy)
        return Outcome(Verdict.DELIVERED, status, answer=known)
    if status in RETRIED_STATUSES or (status >= 500 and status not in UNSUPPORTED_STATUSES):
        return Outcome(
            Verdict.RETRY,
            status,
            seen,
            retry_after_s=_retry_after_s(headers),
            is_timeout=status in TIMEOUT_STATUSES,
            is_uncertain=status in TIMEOUT_STATUSES or status >= 500,
            answer=known,
        )
    if remedy := _remedy(status, known, text):
        return Outcome(Verdict.HELD, status, seen, remedy, answer=known)
    if status in POISON_STATUSES:
        return Outcome(Verdict.POISON, status, seen, answer=known)
    return Outcome(Verdict.HELD, status, seen, "Check the address of the MLflow server.", answer=known)


def transport_failure(kind: str, text: str, *, is_local: bool) -> Outcome:
    """Judge the lack of an answer.

    Args:
        kind: a key of `_TRANSPORT`.
        text: what the HTTP library says.
        is_local: whether the address is this machine's: then there may be a tunnel behind it.
    """
    cause, remedy = _TRANSPORT[kind]
    if is_local:
        remedy = _TUNNEL.get(kind, remedy)
    return Outcome(
        Verdict.RETRY,
        cause=f"{cause} ({clean_text(text, MAX_REASON)})",
        remedy=remedy,
        is_timeout=kind in {"timeout", "slow"},
        is_uncertain=kind in {"reset", "timeout", "slow"},
    )


_TRANSPORT: Final = {
    "refused": ("connection refused", "Is the MLflow server running at this address?"),
    "reset": ("connection closed without an answer", "Is it an MLflow server that listens there?"),
    "timeout": ("no answer in time", "The server or the network is slow or stopped."),
    "unreachable": ("no connection in time", "Check the host name, the firewall and the network."),
    "slow": ("the answer took too long to arrive", "The network is slow."),
    "resolve": ("the host name cannot be resolved", "Check the host name and the network."),
    "tls": ("the TLS connection failed", "Check the certificate; MLFLOW_TRACKING_SERVER_CERT_PATH names a CA file."),
    "other": ("the request failed", "Check the address of the MLflow server."),
}
_TUNNEL: Final = {
    "refused": "The SSH tunnel is down, or no MLflow server runs here: start `ssh -N HOST`, or `mlflow server`.",
    "reset": "The SSH tunnel is up, but no MLflow server listens behind it: start `mlflow server` on the laptop.",
    "timeout": "The laptop behind the SSH tunnel may be asleep, or the server is stopped.",
}


def _remedy(status: int, answer: Mapping[str, Any], text: str) -> str:
    """What a person must do before this server takes anything; empty if the data itself is at fault."""
    if status == 401:
        return "Give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
    if status == 403 and "host" in text.lower():
        return (
            "Start the server with --allowed-hosts 'HOST:PORT,localhost:*' (it replaces the defaults), "
            "or reach it as localhost (an SSH tunnel does)."
        )
    if status == 403:
        return "These credentials may not write there."
    if status == 404 and "error_code" not in answer:
        return "The address lacks the server's path prefix, or it is no MLflow server."
    if status == 404:
        return "It was deleted, or belongs to another server or workspace."
    if status == 400 and "'active' state" in text:
        return "It was deleted: restore it (`mlflow runs restore`, `mlflow experiments restore`), or start a new run."
    if status == 400 and "parameter 'run_id'" in text:
        return "Give the id of an existing run."
    if 300 <= status < 400:
        return "Redirects are not followed: give the final address."
    return ""


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _page_text(body: bytes) -> str:
    """What a page says, in short: its title, if it has one."""
    text = body[:MAX_PAGE].decode("utf-8", "replace")
    title = PAGE_TITLE.search(text)
    return title[1].strip() if title else text[:MAX_REASON].strip()


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The server's wish: seconds, or a date."""
    text = headers.get("retry-after", "")
    try:
        wish_s = float(text)
    except ValueError:
        try:
            wish_s = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return 0.0 if math.isnan(wish_s) else min(max(wish_s, 0.0), MAX_RETRY_AFTER_S)
