"""Where an HTTP message ends, and no more about it: head and body as they came."""

import asyncio
import re
from typing import Final, NamedTuple

__all__ = ["Frame", "read_reply", "read_request"]

_LENGTH: Final = re.compile(rb"^content-length:\s*(\d+)\s*$", re.IGNORECASE | re.MULTILINE)
_CHUNKED: Final = re.compile(rb"^transfer-encoding:.*\bchunked\b", re.IGNORECASE | re.MULTILINE)
_BODILESS: Final = re.compile(rb"^HTTP/\S+ (?:1\d\d|204|304)\b")


class Frame(NamedTuple):
    """A message: `head` ends with the empty line."""

    head: bytes
    body: bytes

    @property
    def data(self) -> bytes:
        """The message as it came."""
        return self.head + self.body


async def read_request(reader: asyncio.StreamReader) -> Frame | None:
    """Read a request; None if the client has closed before one began."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    return Frame(head, await _body(reader, head, until_end=False))


async def read_reply(reader: asyncio.StreamReader, *, is_head: bool = False) -> bytes:
    """Read a reply; without a length it goes on until the server closes."""
    head = await reader.readuntil(b"\r\n\r\n")
    if is_head or _BODILESS.match(head):
        return head
    return head + await _body(reader, head, until_end=True)


async def _body(reader: asyncio.StreamReader, head: bytes, *, until_end: bool) -> bytes:
    if _CHUNKED.search(head):
        return await _chunks(reader)
    length = _LENGTH.search(head)
    if length:
        return await reader.readexactly(int(length[1]))
    return await reader.read() if until_end else b""


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)
