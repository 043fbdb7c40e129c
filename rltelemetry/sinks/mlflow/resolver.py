"""An event loop that resolves names in daemon threads of its own, and that forks wait for.

asyncio's default asks a thread pool that is closed by the time of an atexit hook, and a stalled resolver in that pool
keeps the interpreter from leaving. Here a stalled resolution costs its waiters a time-out, and nobody else anything;
whoever asks for the same name meanwhile waits for the same thread, so that a dead resolver does not collect threads.
Between two waits of the loop no fork takes place.
"""

import asyncio
import socket
import threading
from typing import Any

from rltelemetry.fork_gate import GatedSelector

__all__ = ["make_loop"]


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._gated = GatedSelector()
        super().__init__(self._gated)
        self._resolving: dict[Any, asyncio.Future[Any]] = {}

    def run_forever(self) -> None:
        """Run until it is stopped; a fork of another thread takes place only while it waits."""
        try:
            super().run_forever()
        finally:
            self._gated.leave()

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        question = (host, port, *sorted(hints.items()))
        answer = self._resolving.get(question)
        if answer is None:
            answer = self._resolving[question] = self.create_future()
            answer.add_done_callback(lambda _: self._resolving.pop(question, None))
            self._ask(answer, host, port, hints)
        result = await asyncio.shield(answer)
        if isinstance(result, Exception):
            raise result
        return result

    def _ask(self, answer: "asyncio.Future[Any]", host: Any, port: Any, hints: dict[str, Any]) -> None:
        def resolve() -> None:
            result = _resolve(host, port, hints)
            try:
                self.call_soon_threadsafe(_settle, answer, result)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                return

        thread = threading.Thread(target=resolve, name="rltelemetry-resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending and starts no more threads
            answer.set_result(_resolve(host, port, hints))


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop for the worker thread."""
    return _Loop()


def _resolve(host: Any, port: Any, hints: dict[str, Any]) -> Any:
    """The addresses, or the exception: as a value, so that one nobody waits for is not complained about."""
    try:
        return socket.getaddrinfo(host, port, **hints)
    except Exception as error:
        return error


def _settle(answer: "asyncio.Future[Any]", result: Any) -> None:
    if not answer.done():
        answer.set_result(result)
