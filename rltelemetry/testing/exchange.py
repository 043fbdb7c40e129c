"""One HTTP exchange, as values; and a client that follows nothing, retries nothing and asks no proxy."""

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Answer", "Request", "encode_body", "send"]


class Request(NamedTuple):
    """What was asked.

    Attributes:
        method: `GET`, `POST` ...
        path: without the query.
        query: each name's values.
        headers: lower-case names.
        body: as it came over the wire.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Answer(NamedTuple):
    """What was answered; the names of `headers` are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


def encode_body(body: Any, headers: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """Return a request's bytes and headers: bytes go as they are, text and everything else as JSON."""
    if body is None or isinstance(body, bytes):
        return body or b"", dict(headers or {})
    text = body if isinstance(body, str) else json.dumps(body)
    return text.encode(), {"Content-Type": "application/json", **(headers or {})}


def send(
    uri: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 30
) -> Answer:
    """Send one request on a connection of its own.

    Args:
        uri: the server, `http://HOST:PORT`, and a path prefix if it has one.
        method: the HTTP method.
        path: path and query, behind the prefix.
        body: bytes as they are; a string is sent as JSON text, anything else is made JSON.
        headers: further headers.
        timeout_s: for each wait.

    Raises:
        OSError: no connection, or it broke.
        http.client.HTTPException: what came back is not HTTP.
    """
    parts = urlsplit(uri)
    data, all_headers = encode_body(body, headers)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request(method, parts.path.rstrip("/") + path, body=data or None, headers=all_headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()
