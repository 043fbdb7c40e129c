"""A proxy that breaks the way to an HTTP server on command, on loopback.

It reads whole requests and whole replies, so that a fault hits a known place: before the server sees the request,
between its commit and its reply, within the reply. Each request goes over a connection of its own to the server; when
the server is not there, the client's connection is reset, as an SSH tunnel does it.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from rltelemetry.testing.http_frames import Frame, read_reply, read_request

__all__ = ["Mode", "ToxicProxy"]

Mode = Literal["pass", "latency", "rate", "reset", "hang", "stall", "lose_reply", "cut_reply", "garbage", "canned"]
"""What happens to a request:

pass        nothing.
latency     it is delayed by `latency_s`.
rate        request and reply pass at `bytes_per_s`.
reset       the connection is reset at once; the server sees nothing.
hang        it is swallowed: no answer, ever, not even after the mode has changed.
stall       it is held until the mode changes, and then passed on.
lose_reply  the server answers, and the client sees a reset.
cut_reply   the client gets the first half of the reply, then a reset.
garbage     the client gets bytes that are not HTTP; the server sees nothing.
canned      the client gets the answer that was given to `answer_with`; the server sees nothing.
"""

HOST: Final = "127.0.0.1"
GARBAGE: Final = b"\x00\xff\x16\x03garbage\r\n\r\n" * 8
LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: closing sends RST instead of FIN."""

SLICES_PER_S: Final = 50


class ToxicProxy:
    """A context manager: the proxy runs inside the block. Everything may be called from any thread.

    Args:
        target: the server's port on loopback, or its URI.
        port: where to listen; 0 takes a free one.

    Attributes:
        latency_s: the delay of mode `latency`.
        bytes_per_s: the speed of mode `rate`.
        matching: faults hit only requests whose head contains this; others pass.
        requests: how many were read.
    """

    def __init__(self, target: int | str, port: int = 0) -> None:
        parts = urlsplit(f"http://{HOST}:{target}" if isinstance(target, int) else target)
        self._target = (parts.hostname or HOST, parts.port or 80)
        self._path = parts.path
        self._port = port
        self.latency_s = 0.5
        self.bytes_per_s = 8192.0
        self.matching = ""
        self.requests = 0
        self._mode: Mode = "pass"
        self._left: int | None = None
        self._canned = b""
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="toxic-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._switched = asyncio.Event()

    @property
    def uri(self) -> str:
        """The server's URI, by way of this proxy."""
        return f"http://{HOST}:{self._port}{self._path}"

    @property
    def port(self) -> int:
        """The port; the same after `stop` and `start`."""
        return self._port

    @property
    def mode(self) -> Mode:
        """What happens to the next request."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self.set_mode(mode)

    def set_mode(self, mode: Mode, count: int | None = None) -> None:
        """Switch to `mode`, for the next `count` requests that it hits, or for good."""
        if mode not in get_args(Mode):
            raise ValueError(f"mode: got {mode!r}; expected one of {', '.join(get_args(Mode))}.")
        with self._changed:
            self._mode, self._left = mode, count
        self._loop.call_soon_threadsafe(self._switched.set)

    def answer_with(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", count: int | None = None
    ) -> None:
        """Switch to mode `canned` with this answer."""
        head = {"Content-Length": str(len(body)), **(headers or {})}
        reason = HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        self._canned = "\r\n".join(lines).encode("latin-1") + body
        self.set_mode("canned", count)

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._listen())

    def stop(self) -> None:
        """Refuse connections from here on, and reset those that are open."""
        self._call(self._close())

    def drop_connections(self) -> None:
        """Reset the connections that are open; new ones are accepted."""
        self._call(self._drop())

    def wait_for_requests(self, count: int, timeout_s: float = 5.0) -> bool:
        """Block until `count` requests have been read since the beginning; False on time-out."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self.requests < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    return False
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _drop(self) -> None:
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass requests until either side is done; every way out but the client's own end is a reset."""
        try:
            while (request := await read_request(reader)) is not None:
                toxic = self._toxics[self._take_mode(request)]
                await toxic(self, request, writer)
            writer.close()
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            _reset(writer)

    def _take_mode(self, request: Frame) -> Mode:
        """Count a request and say what happens to it."""
        with self._changed:
            self.requests += 1
            self._changed.notify_all()
            if self._mode == "pass" or self.matching.encode() not in request.head:
                return "pass"
            mode = self._mode
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self._mode, self._left = "pass", None
            return mode

    async def _exchange(self, request: Frame, bytes_per_s: float | None = None) -> bytes:
        """Ask the server, and return its whole reply."""
        reader, writer = await asyncio.open_connection(*self._target)
        try:
            await _write(writer, request.data, bytes_per_s)
            return await read_reply(reader, is_head=request.head.startswith(b"HEAD "))
        finally:
            writer.close()

    async def _pass(self, request: Frame, writer: asyncio.StreamWriter) -> None:
        await _write(writer, await self._exchange(request))

    async def _delay(self, request: Frame, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.latency_s)
        await self._pass(request, writer)

    async def _slow_down(self, request: Frame, writer: asyncio.StreamWriter) -> None:
        await _write(writer, await self._exchange(request, self.bytes_per_s), self.bytes_per_s)

    async def _reset(self, _request: Frame, _writer: asyncio.StreamWriter) -> None:
        raise ConnectionResetError

    async def _hang(self, _request: Frame, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def _stall(self, request: Frame, writer: asyncio.StreamWriter) -> None:
        while self._mode == "stall":
            self._switched.clear()
            await self._switched.wait()
        await self._pass(request, writer)

    async def _lose_reply(self, request: Frame, _writer: asyncio.StreamWriter) -> None:
        await self._exchange(request)
        raise ConnectionResetError

    async def _cut_reply(self, request: Frame, writer: asyncio.StreamWriter) -> None:
        reply = await self._exchange(request)
        await _write(writer, reply[: len(reply) // 2])
        writer.close()
        await writer.wait_closed()
        raise ConnectionResetError

    async def _garble(self, _request: Frame, writer: asyncio.StreamWriter) -> None:
        await _write(writer, GARBAGE)

    async def _can(self, _request: Frame, writer: asyncio.StreamWriter) -> None:
        await _write(writer, self._canned)

    _toxics: Final[dict[Mode, Callable[["ToxicProxy", Frame, asyncio.StreamWriter], Awaitable[None]]]] = {
        "pass": _pass,
        "latency": _delay,
        "rate": _slow_down,
        "reset": _reset,
        "hang": _hang,
        "stall": _stall,
        "lose_reply": _lose_reply,
        "cut_reply": _cut_reply,
        "garbage": _garble,
        "canned": _can,
    }


async def _write(writer: asyncio.StreamWriter, data: bytes, bytes_per_s: float | None = None) -> None:
    if bytes_per_s is None:
        writer.write(data)
        await writer.drain()
        return
    size = max(1, int(bytes_per_s / SLICES_PER_S))
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        await asyncio.sleep(len(piece) / bytes_per_s)
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    writer.transport.abort()
