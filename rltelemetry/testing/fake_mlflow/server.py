"""The fake MLflow on a port: what it has seen, and how to make it fail."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from rltelemetry.testing.exchange import Answer, Request, encode_body
from rltelemetry.testing.fake_mlflow.app import App, Options
from rltelemetry.testing.mlflow_server import MlflowServer

__all__ = ["FakeMlflow", "Seen"]

HOST: Final = "127.0.0.1"
IDLE_S: Final = 5.0
"""The real server closes connections that were idle so long."""


@dataclass(frozen=True)
class Seen:
    """A request and the status that it got; 0 if the connection was cut instead."""

    request: Request
    status: int


@dataclass
class _Failure:
    left: int
    matching: str
    answer: Answer


class FakeMlflow(MlflowServer):
    """A context manager: the server runs inside the block, on a loopback port.

    Args:
        port: where to listen; 0 takes a free one.
        store_type: `SqlStore`, or `FileStore`, which refuses traces (501).
        username: makes REST and traces ask for Basic credentials.
        password: see `username`.
        token: makes them ask for a Bearer token; either will do if both are given.
        allowed_hosts: Host headers that pass beside the local and private ones; `*` is a wild card.
        static_prefix: path below which everything lies, for example `/mlflow`.
        workspaces: names of further workspaces; empty switches the feature off.
        has_traces: False leaves the trace route out (404), as a server under gunicorn does.
        links_runs: False ignores the run header of traces, as older servers do.

    Attributes:
        latency_s: how long each request waits before it is looked at.
        intercept: if set, is shown each request first, and answers it unless it returns None.
        seen: every request that came over the network, with its status, in the order of the answers.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        store_type: str = "SqlStore",
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        allowed_hosts: tuple[str, ...] = (),
        static_prefix: str = "",
        workspaces: tuple[str, ...] = (),
        has_traces: bool = True,
        links_runs: bool = True,
    ) -> None:
        self.latency_s = 0.0
        self.intercept: Callable[[Request], Answer | None] | None = None
        self.seen: list[Seen] = []
        self._app = App(
            Options(
                store_type,
                username,
                password,
                token,
                allowed_hosts,
                static_prefix,
                workspaces,
                has_traces,
                links_runs,
            )
        )
        self._port = port
        self._prefix = static_prefix
        self._failures: list[_Failure] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._http: _HttpServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://{HOST}:{self._port}{self._prefix}"

    @property
    def port(self) -> int:
        """The port; the same after `stop` and `start`."""
        return self._port

    @property
    def requests(self) -> list[Request]:
        """The requests that came over the network."""
        return [each.request for each in self.seen]

    def start(self) -> None:
        """Listen, on the same port as before; what was stored is still there."""
        self._stopping.clear()
        self._http = _HttpServer((HOST, self._port), self)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-mlflow", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from here on and cut those that are open."""
        if self._http is None or self._thread is None:
            return
        self._stopping.set()
        self._http.shutdown()
        self._http.close_all()
        self._thread.join()
        self._http = self._thread = None

    def fail_next(
        self,
        count: int = 1,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        matching: str = "",
    ) -> None:
        """Answer the next `count` requests whose path contains `matching` with `status`, without looking at them."""
        answer = Answer(status, {"content-type": "text/plain", **(headers or {})}, body)
        with self._changed:
            self._failures.append(_Failure(count, matching, answer))

    def wait_until(self, condition: "Callable[[FakeMlflow], bool]", timeout_s: float = 5.0) -> bool:
        """Block until `condition` holds, looking after each request; False on time-out."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition(self):
                if not self._changed.wait(deadline - time.monotonic()):
                    return condition(self)
        return True

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Put a request to the store itself: no gate, no fault, no entry in `seen`."""
        data, headers = encode_body(body)
        return self._app.routes.answer(_request(method, path, headers, data))

    def handle(self, request: Request) -> Answer:
        """Answer a request of the network; for the connection's thread."""
        if self.latency_s:
            self._stopping.wait(self.latency_s)
        answer = self._injected(request) or self._app.answer(request)
        with self._changed:
            self.seen.append(Seen(request, answer.status))
            self._changed.notify_all()
        return answer

    def _injected(self, request: Request) -> Answer | None:
        with self._changed:
            for failure in self._failures:
                if failure.left > 0 and failure.matching in request.path:
                    failure.left -= 1
                    return failure.answer
        return self.intercept(request) if self.intercept else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _HttpServer(ThreadingHTTPServer):
    """Knows its open connections, so that stopping cuts them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: FakeMlflow) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(address, _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_bind(self) -> None:
        """Bind without asking a resolver for this machine's name, as the standard server does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: tests make them."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close_all(self) -> None:
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # its own thread was faster
                continue


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet
    server: _HttpServer

    def serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.handle(_request(self.command, self.path, headers, self.rfile.read(size)))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `seen` has it."""


def _request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
    parts = urlsplit(target)
    lowered = {name.lower(): value for name, value in headers.items()}
    return Request(method, parts.path, parse_qs(parts.query, keep_blank_values=True), lowered, body)
