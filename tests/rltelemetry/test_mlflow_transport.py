"""The transport below httpx: answers of every shape, connections used again or not, and what each failure is called."""

import asyncio
import gc
import gzip
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rltelemetry.sinks.mlflow.transport import AsyncioTransport
from rltelemetry.testing import FakeMlflow

Serve = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NOT_PACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """A server on loopback that does with each connection what it is told.

    Attributes:
        num_connections: how many there were.
        requests: what came, each with its body.
    """

    def __init__(self, serve: Serve) -> None:
        self.num_connections = 0
        self.requests: list[bytes] = []
        self._serve = serve

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.uri = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request with a Content-Length, or without a body."""
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        request = head + await reader.readexactly(int(lengths[0]) if lengths else 0)
        self.requests.append(request)
        return request

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            await self._serve(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answers(*replies: bytes) -> Server:
    """A server that gives each request of a connection the next of these replies, and closes it behind the last."""

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await server.read_request(reader)
            writer.write(reply)
            await writer.drain()

    return Server(serve)


def request(uri: str, content: bytes | AsyncIterator[bytes] = b"{}", timeout_s: float = 5.0, **headers: str) -> Any:
    timeouts_s = httpx.Timeout(timeout_s).as_dict()
    extensions = {"timeout": timeouts_s}
    return httpx.Request("POST", uri + "/path?a=b", content=content, headers=headers, extensions=extensions)


def put_once(server: Server, **options: Any) -> httpx.Response:
    async def scenario() -> httpx.Response:
        async with server, AsyncioTransport(None, 3.0) as transport:
            return await transport.handle_async_request(request(server.uri, **options))

    return asyncio.run(scenario())


def put_twice(server: Server, pause_s: float = 0.0, keepalive_s: float = 3.0) -> list[bytes]:
    async def scenario() -> list[bytes]:
        async with server, AsyncioTransport(None, keepalive_s) as transport:
            bodies = []
            for _ in range(2):
                bodies.append((await transport.handle_async_request(request(server.uri))).content)
                await asyncio.sleep(pause_s)
            return bodies

    return asyncio.run(scenario())


def test_request_is_what_httpx_has_made() -> None:
    server = answers(OK)
    put_once(server, content=b"\x00body", **{"X-Name": "value"})
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /path?a=b HTTP/1.1"
    host = b"Host: " + server.uri.removeprefix("http://").encode()
    assert {host, b"X-Name: value", b"Content-Length: 5"} <= set(lines)
    assert body == b"\x00body"


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 102 Processing\r\n\r\n" + OK, b"ok"),
    ],
    ids=["length", "chunked", "until-the-end", "old-and-empty", "no-content", "interim"],
)
def test_answer_of_any_shape_is_read_whole(reply: bytes, body: bytes) -> None:
    assert put_once(answers(reply)).content == body


def test_answer_that_comes_byte_by_byte_is_read_whole() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)

    response = put_once(Server(serve))
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "2", b"ok")


def test_large_answer_is_read_whole() -> None:
    body = bytes(range(256)) * 12_000
    assert put_once(answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)).content == body


def test_packed_answer_is_unpacked() -> None:
    packed = gzip.compress(b"much" * 1000)
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    assert put_once(answers(reply)).content == b"much" * 1000


def test_connection_is_used_again() -> None:
    server = answers(OK, OK)
    assert put_twice(server) == [b"ok", b"ok"]
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("reply", "pause_s", "keepalive_s"),
    [
        (OK, 0.2, 0.1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", 0.0, 3.0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 0.0, 3.0),
    ],
    ids=["too-old", "close", "http-1.0"],
)
def test_connection_is_not_used_again(reply: bytes, pause_s: float, keepalive_s: float) -> None:
    server = answers(reply, OK)
    assert put_twice(server, pause_s, keepalive_s)[0] == b"ok"
    assert server.num_connections == 2


def test_connection_that_the_server_has_closed_meanwhile_is_not_used_again() -> None:
    server = answers(OK)
    assert put_twice(server, pause_s=0.05) == [b"ok", b"ok"]
    assert server.num_connections == 2


def test_what_nobody_asked_for_is_no_answer() -> None:
    """A proxy says 408 on a connection that has rested for too long for it; the next request must not take that."""
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(late)
        await reader.read()

    server = Server(serve)
    assert put_twice(server, pause_s=0.1) == [b"ok", b"ok"]
    assert server.num_connections == 2


def test_what_stands_behind_an_answer_is_no_answer_to_the_next_request() -> None:
    server = answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale", OK)
    assert put_twice(server) == [b"ok", b"ok"]
    assert server.num_connections == 2


class Flood:
    """Sends the same piece again and again, until the other side has had enough.

    Attributes:
        num_sent: how often.
        is_stopped: whether it was stopped.
    """

    def __init__(self, piece: bytes, *, is_asked: bool) -> None:
        self.num_sent = 0
        self.is_stopped = False
        self._piece = piece
        self._is_asked = is_asked

    async def serve(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_asked:
            await server.read_request(reader)
            writer.write(OK)
            await asyncio.sleep(0.05)
        try:
            for self.num_sent in range(1000):
                writer.write(self._piece)
                await writer.drain()
        except ConnectionError:
            self.is_stopped = True


def test_connection_that_talks_unasked_is_closed_at_once() -> None:
    flood = Flood(b"x" * 100_000, is_asked=False)

    async def scenario() -> None:
        async with Server(flood.serve) as server, AsyncioTransport(None, 3.0) as transport:
            await transport.handle_async_request(request(server.uri))
            await asyncio.sleep(0.3)

    asyncio.run(scenario())
    assert flood.is_stopped


def test_answers_without_end_are_given_up_while_the_body_is_sent() -> None:
    flood = Flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, is_asked=True)

    async def scenario() -> None:
        async with Server(flood.serve) as server, AsyncioTransport(None, 3.0) as transport:
            put = request(server.uri, content=pieces(1000, 100_000), **{"Content-Length": "100000000"})
            with pytest.raises(httpx.ReadError):
                await transport.handle_async_request(put)
            await asyncio.sleep(0.1)

    asyncio.run(scenario())
    assert flood.is_stopped


async def pieces(number: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b"x" * size


def test_body_in_pieces_arrives_whole() -> None:
    server = answers(OK)
    put_once(server, content=pieces(30, 100_000), **{"Content-Length": "3000000"})
    assert len(server.requests[0].partition(b"\r\n\r\n")[2]) == 3_000_000


def test_refusal_in_the_middle_of_a_body_is_read() -> None:
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig"

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        await writer.drain()
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await reader.readexactly(1_000_000)

    response = put_once(Server(serve), content=pieces(1000, 100_000), **{"Content-Length": "100000000"})
    assert (response.status_code, response.content) == (413, b"big")


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (b"", httpx.RemoteProtocolError, "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", httpx.RemoteProtocolError, "unexpectedly closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", httpx.RemoteProtocolError, "closed"),
        (b"\x00\xff garbage\r\n\r\n", httpx.RemoteProtocolError, "illegal"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000, httpx.RemoteProtocolError, "too long"),
        (NOT_PACKED, httpx.DecodingError, "incorrect header"),
    ],
    ids=["none", "cut-head", "cut-body", "garbage", "endless-head", "not-gzip"],
)
def test_no_answer_and_half_an_answer_are_errors(reply: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        put_once(answers(reply))


def test_reset_is_an_error_of_reading() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    with pytest.raises(httpx.ReadError, match="reset"):
        put_once(Server(serve))


async def stall(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


def test_waits_are_bounded() -> None:
    with pytest.raises(httpx.ReadTimeout, match=r"nothing came for 0\.05 s"):
        put_once(Server(stall), timeout_s=0.05)
    with pytest.raises(httpx.WriteTimeout, match=r"nothing was taken for 0\.05 s"):
        put_once(Server(stall), timeout_s=0.05, content=b"x" * 30_000_000)


def test_connecting_is_bounded_and_refusals_are_said() -> None:
    async def connect(uri: str) -> None:
        async with AsyncioTransport(None, 3.0) as transport:
            await transport.handle_async_request(request(uri, timeout_s=0.05))

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), pytest.raises(httpx.ConnectTimeout):
            asyncio.run(connect(f"http://127.0.0.1:{port}"))
    with pytest.raises(httpx.ConnectError, match="Connect call failed"):
        asyncio.run(connect(f"http://127.0.0.1:{port}"))


def test_header_that_cannot_be_sent_is_an_error_of_ours() -> None:
    with pytest.raises(httpx.LocalProtocolError, match="llegal header"):
        put_once(answers(OK), **{"X-Name": "two\r\nlines"})


def test_request_that_is_given_up_takes_its_connection_with_it() -> None:
    async def scenario() -> None:
        server = answers(OK, OK)
        async with Server(stall) as slow, server, AsyncioTransport(None, 3.0) as transport:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await transport.handle_async_request(request(slow.uri))
            assert (await transport.handle_async_request(request(server.uri))).content == b"ok"
            assert (await transport.handle_async_request(request(server.uri))).content == b"ok"
            assert server.num_connections == 1

    asyncio.run(scenario())


def test_host_is_asked_for_under_the_name_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`faß.de` and `fass.de` are two hosts, and one of them must not get the other's credentials."""
    asked: list[Any] = []

    async def resolve(_loop: Any, host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError("nobody")

    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", resolve)

    async def scenario() -> None:
        async with AsyncioTransport(None, 3.0) as transport:
            await transport.handle_async_request(request("http://faß.de:5000"))

    with pytest.raises(httpx.ConnectError, match="nobody"):
        asyncio.run(scenario())
    assert asked == ["xn--fa-hia.de"]


def test_two_requests_at_once_have_a_connection_each() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = (await server.read_request(reader))[-1:]
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body)
        await reader.read()

    async def scenario() -> None:
        async with Server(serve) as server, AsyncioTransport(None, 3.0) as transport:
            both = [transport.handle_async_request(request(server.uri, content=body)) for body in (b"1", b"2")]
            assert [response.content for response in await asyncio.gather(*both)] == [b"1", b"2"]
            assert server.num_connections == 2

    asyncio.run(scenario())


def test_closing_ends_connections_that_rest() -> None:
    ended = asyncio.Event()

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.write(OK)
        assert await reader.read() == b""
        ended.set()

    async def scenario() -> None:
        async with Server(serve) as server:
            async with AsyncioTransport(None, 3.0) as transport:
                await transport.handle_async_request(request(server.uri))
            await asyncio.wait_for(ended.wait(), 1.0)

    asyncio.run(scenario())


def test_closing_while_a_request_is_under_way_ends_its_connection_behind_it() -> None:
    ended = asyncio.Event()

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        await asyncio.sleep(0.05)
        writer.write(OK)
        assert await reader.read() == b""
        ended.set()

    async def scenario() -> None:
        async with Server(serve) as server:
            transport = AsyncioTransport(None, 3.0)
            running = asyncio.create_task(transport.handle_async_request(request(server.uri)))
            await asyncio.sleep(0.02)
            await transport.aclose()
            assert (await running).content == b"ok"
            await asyncio.wait_for(ended.wait(), 1.0)

    asyncio.run(scenario())


def test_closing_that_is_cut_short_leaves_no_failure_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with answers(OK, OK) as server:
            transport = AsyncioTransport(None, 3.0)
            await transport.handle_async_request(request(server.uri))
            closing = asyncio.create_task(transport.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what a loop has left open when it was closed, stays so
def test_connection_of_a_loop_that_is_gone_is_left_alone(fake_mlflow: FakeMlflow) -> None:
    transport = AsyncioTransport(None, 3.0)

    async def put() -> int:
        return (await transport.handle_async_request(request(fake_mlflow.uri))).status_code

    assert [asyncio.run(put()) for _ in range(2)] == [404, 404]
    asyncio.run(transport.aclose())
    gc.collect()  # here, where the warning is not heard


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `localhost` that signs itself, its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    encoding, key_format = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(encoding, key_format, serialization.NoEncryption()) + made.public_bytes(encoding)
    )
    return path


def put_over_tls(certificate: Path, client: ssl.SSLContext) -> list[int]:
    """Put three requests over one connection, two of them in pieces; returns the sizes of the bodies that arrived."""
    server = answers(OK, OK, OK)

    async def scenario() -> list[int]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        listening = await asyncio.start_server(server._take, "127.0.0.1", 0, ssl=tls)
        uri = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
        try:
            async with AsyncioTransport(client, 3.0) as transport:
                for number, size in ((3, 100), (1, 2), (30, 100_000)):
                    length = {"Content-Length": str(number * size)}
                    put = request(uri, content=pieces(number, size), timeout_s=2.0, **length)
                    assert (await transport.handle_async_request(put)).content == b"ok"
        finally:
            listening.close()
        return [len(seen.partition(b"\r\n\r\n")[2]) for seen in server.requests]

    return asyncio.run(scenario())


def test_tls_is_spoken_and_verified(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert put_over_tls(certificate, trusting) == [300, 2, 3_000_000]
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        put_over_tls(certificate, ssl.create_default_context())
