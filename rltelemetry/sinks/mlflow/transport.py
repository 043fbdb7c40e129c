"""HTTP/1.1 for httpx on asyncio itself: h11 reads and writes it, as in httpx's own transport, with nothing between.

httpx's own, through a pool and anyio, takes 7 rounds of the event loop where this one takes 2, and nearly twice its
CPU time, for the small requests that telemetry makes beside a training. Answers are read whole; a connection that is
not too old is used again.
"""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import h11
import httpx

__all__ = ["AsyncioTransport"]

MAX_HEAD_BYTES: Final = 100_000
"""Of an answer's status line and headers."""

MAX_UNREAD_BYTES: Final = 1 << 20
"""What may come while nobody reads, since the request is still being sent: more is no answer."""

HAPPY_EYEBALLS_S: Final = 0.25
"""How long the first address of a name has for itself, before the next is tried beside it (RFC 8305)."""


class AsyncioTransport(httpx.AsyncBaseTransport):
    """Puts requests, each on a connection that is free, else on a new one.

    Args:
        tls: what verifies the server; None for plain HTTP.
        keepalive_s: how long a connection may rest and be used again.
    """

    def __init__(self, tls: ssl.SSLContext | None, keepalive_s: float) -> None:
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._idle: list[_Connection] = []
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Put a request and read its answer; see httpx's documentation of transports.

        Raises:
            httpx.TransportError: there is no answer, or no whole one.
        """
        timeouts_s = request.extensions["timeout"]
        connection = self._take_idle() or await self._connect(request.url, timeouts_s["connect"])
        try:
            await connection.send(request, timeouts_s["write"])
            response = await connection.receive(timeouts_s["read"])
        except BaseException:
            connection.abort()
            raise
        if connection.rest() and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def aclose(self) -> None:
        """Close the connections; one that is in use, as soon as it is not."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().close()

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh(self._keepalive_s):
                return connection
            connection.abort()
        return None

    async def _connect(self, url: httpx.URL, timeout_s: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        port = url.port or (443 if self._tls else 80)
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, url.raw_host.decode(), port, ssl=self._tls, happy_eyeballs_delay=HAPPY_EYEBALLS_S
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {timeout_s:g} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection of the running loop, on which one request at a time is under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._is_busy = self._has_ended = False
        self._rests_since = 0.0
        self._unread_bytes = 0
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost: Exception | None = None

    async def send(self, request: httpx.Request, timeout_s: float) -> None:
        """Send a request; each piece of its body has `timeout_s` to be taken.

        Of a connection that is lost on the way nothing is said: the other side may have answered before.
        """
        self._is_busy = True
        with _as_httpx():
            method, target, headers = request.method, request.url.raw_path, request.headers.raw
            pending = self._http.send(h11.Request(method=method, target=target, headers=headers)) or b""
            async for piece in request.stream:  # type: ignore[union-attr]
                self._transport.write(pending + (self._http.send(h11.Data(data=piece)) or b""))
                pending = b""
                await self._flushed(timeout_s)
                if self._lost is not None:
                    return
            self._transport.write(pending + (self._http.send(h11.EndOfMessage()) or b""))

    async def receive(self, timeout_s: float) -> httpx.Response:
        """Read the answer; each piece of it has `timeout_s` to arrive."""
        status, headers, body = 0, [], bytearray()
        with _as_httpx():
            while type(event := await self._next_event(timeout_s)) is not h11.EndOfMessage:
                if type(event) is h11.Response:
                    status, headers = event.status_code, event.headers.raw_items()
                elif type(event) is h11.Data:
                    body += event.data
        return httpx.Response(status, headers=headers, content=bytes(body))

    def rest(self) -> bool:
        """Make ready for the next request; False if there can be none: it has ended, or says more than it was asked."""
        states = {self._http.our_state, self._http.their_state}
        if states != {h11.DONE} or self._http.trailing_data != (b"", False):
            return False
        self._http.start_next_cycle()
        self._is_busy = False
        self._rests_since = self._loop.time()
        return self._lost is None

    def is_fresh(self, keepalive_s: float) -> bool:
        """Whether it can be used again, on this loop, having rested for less than `keepalive_s`."""
        is_ours = self._loop is asyncio.get_running_loop()
        return is_ours and self._lost is None and self._loop.time() - self._rests_since < keepalive_s

    def abort(self) -> None:
        """Close at once."""
        if self._lost is None:
            self._lost = ConnectionAbortedError("the connection was closed")
            with suppress(RuntimeError):  # its loop is closed: nothing can be done any more
                self._transport.abort()

    async def close(self) -> None:
        """Close at once, and wait until that is done."""
        self.abort()
        if self._loop is asyncio.get_running_loop():
            await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # taken means: by the kernel; with high=0 TLS stalls

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        if not self._is_busy or self._unread_bytes > MAX_UNREAD_BYTES:
            self.abort()
            return
        self._http.receive_data(data)
        _settle(self._news)

    def eof_received(self) -> None:
        if not self._is_busy:
            self.abort()
            return
        self._has_ended = True
        self._http.receive_data(b"")
        _settle(self._news)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._lost or error or ConnectionAbortedError("the connection was closed")
        _settle(self._gone)
        _settle(self._news)
        _settle(self._room)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        _settle(self._room)

    async def _next_event(self, timeout_s: float) -> object:
        while True:
            if self._has_ended and self._http.their_state is h11.SEND_RESPONSE and not self._http.trailing_data[0]:
                raise httpx.RemoteProtocolError("the server closed the connection without an answer")
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._unread_bytes = 0
            if self._lost is not None:
                raise httpx.ReadError(str(self._lost)) from self._lost
            self._news = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news
            except TimeoutError as error:
                raise httpx.ReadTimeout(f"nothing came for {timeout_s:g} s") from error

    async def _flushed(self, timeout_s: float) -> None:
        """Wait until everything is taken, or the connection lost."""
        if self._room is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._room
        except TimeoutError as error:
            raise httpx.WriteTimeout(f"nothing was taken for {timeout_s:g} s") from error
        self._room = None


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Say in httpx's words what h11 has against a request or an answer."""
    try:
        yield
    except h11.RemoteProtocolError as error:
        raise httpx.RemoteProtocolError(str(error)) from error
    except h11.LocalProtocolError as error:
        raise httpx.LocalProtocolError(str(error)) from error


def _settle(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
