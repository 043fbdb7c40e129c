"""The gates before MLflow: path prefix, Host header, credentials. /health stands outside of all of them."""

import base64
import fnmatch
from dataclasses import dataclass
from typing import Final

from rltelemetry.testing.exchange import Answer, Request
from rltelemetry.testing.fake_mlflow.answers import not_found, text_answer
from rltelemetry.testing.fake_mlflow.routes import ARTIFACTS, SERVER_INFO, Routes

__all__ = ["App", "Options"]

LOCAL_HOSTS: Final = (
    *("localhost", "127.0.0.1", "[::1]", "0.0.0.0", "10.*", "192.168.*"),
    *(f"172.{number}.*" for number in range(16, 32)),
)


@dataclass(frozen=True)
class Options:
    """What kind of server this is; see `FakeMlflow`."""

    store_type: str = "SqlStore"
    username: str | None = None
    password: str | None = None
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    static_prefix: str = ""
    workspaces: tuple[str, ...] = ()
    has_traces: bool = True
    links_runs: bool = True


class App:
    """Answers requests as the server that `options` describe.

    Args:
        options: what kind of server this is.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.routes = Routes(
            options.store_type, options.workspaces, has_traces=options.has_traces, links_runs=options.links_runs
        )

    def answer(self, request: Request) -> Answer:
        """Answer a request that came over the network."""
        prefix = self.options.static_prefix
        if not request.path.startswith((f"{prefix}/", ARTIFACTS)):
            return not_found()
        request = request._replace(path=request.path.removeprefix(prefix))
        if request.path == "/health":
            return text_answer(200, "OK")
        if request.path != "/version" and not self._is_allowed_host(request.headers.get("host", "")):
            return text_answer(403, "Invalid Host header - possible DNS rebinding attack detected")
        if request.path != SERVER_INFO and not self._is_authorized(request):
            return text_answer(401, "You are not authenticated.", www_authenticate='Basic realm="mlflow"')
        return self.routes.answer(request)

    def _is_allowed_host(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        patterns = (*LOCAL_HOSTS, *self.options.allowed_hosts)
        names = (host, name)
        return any(each == pattern or fnmatch.fnmatchcase(each, pattern) for each in names for pattern in patterns)

    def _is_authorized(self, request: Request) -> bool:
        given, options = request.headers.get("authorization", ""), self.options
        accepted = []
        if options.username is not None:
            userinfo = f"{options.username}:{options.password or ''}".encode()
            accepted.append(f"Basic {base64.b64encode(userinfo).decode()}")
        if options.token is not None:
            accepted.append(f"Bearer {options.token}")
        return not accepted or given in accepted
