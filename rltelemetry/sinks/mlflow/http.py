"""Requests and answers: one connection to one server, in httpx's terms, over a transport of our own.

Nothing is raised: what keeps a request from being answered becomes an `Outcome`. No proxy, no redirect, and nothing of
a request in anybody's log.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.access import request_headers, tls_context
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict, transport_failure
from rltelemetry.sinks.mlflow.transport import AsyncioTransport

__all__ = ["LOOPBACK", "Answer", "Body", "BodyError", "Http", "Transport"]

KEEPALIVE_S: Final = 3.0
"""MLflow closes idle connections after 5 s; a connection reused at that moment fails."""

TOTAL_GROWTH: Final = 2.0
"""A time-out counts for each wait of a request; all of it may take so much longer, however its bytes trickle."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

Body = bytes | AsyncIterator[bytes]
Transport = httpx.AsyncBaseTransport
"""What carries requests: ours, or what stands in for the network in tests."""


class BodyError(Exception):
    """What a body in pieces raises when it cannot go on: no failure of the connection."""


class Answer(NamedTuple):
    """What a server has answered.

    Attributes:
        status: the HTTP status.
        headers: lower-case names.
        body: all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """One server, one connection at a time but for the heartbeat's.

    Args:
        settings: address, credentials, TLS.
        transport: stands in for the network in tests.
        environ: where HOME is, for MLflow's own credentials file.
    """

    def __init__(
        self, settings: Settings, transport: Transport | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.base_uri = settings.tracking_uri
        self._settings = settings
        self._transport = transport
        self._headers = request_headers(settings, environ)
        self._is_local = urlsplit(settings.tracking_uri).hostname in LOOPBACK
        self._connection: Transport | None = None
        self._is_closed = False

    async def exchange(
        self,
        method: str,
        route: str,
        timeout_s: float,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | Outcome:
        """Put one request; an `Outcome` in place of an answer says why there is none.

        Args:
            method: GET, POST ...
            route: what follows the server's address.
            timeout_s: longest wait for each step of it; of a body in pieces, for each piece.
            query: what follows the route.
            body: what is sent.
            headers: those of this request only.
        """
        if self._is_closed:
            return Outcome(Verdict.RETRY, cause="the connection has been closed")
        total_s = None if isinstance(body, AsyncIterator) else timeout_s * TOTAL_GROWTH
        try:
            async with asyncio.timeout(total_s):
                return await self._put(
                    httpx.Request(
                        method,
                        _parsed(self.base_uri + route),
                        params=query,
                        content=body,
                        headers={**self._headers, **(headers or {})},
                        extensions={"timeout": httpx.Timeout(timeout_s).as_dict()},
                    )
                )
        except TimeoutError as error:
            return self._failed("slow", error)
        except httpx.HTTPError as error:
            return self._failed(_kind(error), error)
        except BodyError as error:
            return Outcome(Verdict.POISON, cause=str(error))
        except OSError as error:  # settings that cannot be read
            return self._failed("tls", error)
        except Exception as error:  # settings that cannot be sent, and whatever else a transport raises
            return self._failed("other", error)

    async def leave_loop(self) -> None:
        """Close the connection; the next request opens another one, on whatever loop it is made."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.aclose()

    async def close(self) -> None:
        """Close the connection; every later request fails."""
        self._is_closed = True
        await self.leave_loop()

    def _failed(self, kind: str, error: Exception) -> Outcome:
        return transport_failure(kind, str(error) or type(error).__name__, is_local=self._is_local)

    async def _put(self, request: httpx.Request) -> Answer:
        response = await self._connected().handle_async_request(request)
        try:
            return Answer(response.status_code, response.headers, await response.aread())
        finally:
            await response.aclose()

    def _connected(self) -> Transport:
        """A bare transport: a client's cookies, redirects and merging cost a quarter of each request, for nothing."""
        if self._connection is None:
            self._connection = self._transport or AsyncioTransport(tls_context(self._settings), KEEPALIVE_S)
        return self._connection


@lru_cache(maxsize=32)
def _parsed(url: str) -> httpx.URL:
    """A few addresses are asked again and again, and reading one costs as much as the rest of a request."""
    return httpx.URL(url)


def _kind(error: httpx.HTTPError) -> str:
    """Tell the failures apart that a person can do something different about."""
    if isinstance(error, httpx.ConnectTimeout):
        return "unreachable"
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    if isinstance(error, httpx.ConnectError):
        return _kind_of_connect_error(str(error).lower())
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "reset"
    return "other"


def _kind_of_connect_error(text: str) -> str:
    if "certificate" in text or "ssl" in text:
        return "tls"
    if any(hint in text for hint in ("name or service", "nodename", "resolution", "no address", "getaddrinfo")):
        return "resolve"
    return "refused"
