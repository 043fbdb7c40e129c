"""Name resolution in daemon threads of our own: a stalled resolver costs its waiters a time-out, and nobody else."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from rltelemetry.sinks.mlflow.resolver import make_loop


def run(scenario: Any) -> Any:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(scenario)


def test_name_is_resolved() -> None:
    async def scenario() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)

    assert {entry[4][0] for entry in run(scenario())} & {"127.0.0.1", "::1"}


def test_failure_is_raised_to_whoever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    async def scenario() -> None:
        with pytest.raises(socket.gaierror, match="not known"):
            await asyncio.get_running_loop().getaddrinfo("nowhere.invalid", 80)

    run(scenario())


def test_stalled_resolver_holds_up_neither_the_loop_nor_its_end_and_collects_no_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: release.wait(60))

    def resolvers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "rltelemetry-resolver"]

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await loop.getaddrinfo("slow.example", 80)
        assert len(resolvers()) == 1

    run(scenario())
    threads = resolvers()
    assert all(thread.daemon for thread in threads)
    release.set()  # the answer comes when the loop is gone
    for thread in threads:
        thread.join(5.0)
        assert not thread.is_alive()


def test_interpreter_that_starts_no_more_threads_still_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def scenario() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)

    assert run(scenario())
