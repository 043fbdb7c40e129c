"""An event loop that resolves names in daemon threads of its own.

asyncio's default asks a thread pool that is closed by the time of an atexit hook, and a stalled resolver in that pool
keeps the interpreter from leaving. Here a stalled resolution costs its waiter a time-out, and nobody else anything.
"""

import asyncio
import socket
import threading
from typing import Any

__all__ = ["make_loop"]


class _Loop(asyncio.SelectorEventLoop):
    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        answer: asyncio.Future[Any] = self.create_future()

        def resolve() -> None:
            try:
                result: Any = socket.getaddrinfo(host, port, **hints)
            except Exception as error:
                result = error
            try:
                self.call_soon_threadsafe(_settle, answer, result)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                return

        threading.Thread(target=resolve, name="rltelemetry-resolver", daemon=True).start()
        return await answer


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop for the worker thread."""
    return _Loop()


def _settle(answer: "asyncio.Future[Any]", result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
