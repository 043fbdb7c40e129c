"""The way to the server below HTTP: the host's addresses, and whether something listens at one of them."""

import asyncio
import socket
import time
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from rltelemetry.doctor.findings import Finding, failed, ok
from rltelemetry.sinks.mlflow import LOOPBACK, transport_failure

__all__ = ["Place", "check_connection", "check_name"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Place(NamedTuple):
    """Where a server should be."""

    host: str
    port: int

    @classmethod
    def of(cls, uri: str) -> "Place":
        """Read an address that `Settings` has accepted."""
        parts = urlsplit(uri)
        return cls(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])


async def check_name(place: Place, timeout_s: float) -> tuple[Finding, list[str]]:
    """Resolve the host's name; returns the addresses, too."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return failed(
            "name", f"no answer for {place.host} in {timeout_s:g} s", "The resolver does not answer: check the network."
        ), []
    except (OSError, UnicodeError) as error:
        outcome = transport_failure("resolve", f"{place.host}: {error}", is_local=False)
        return failed("name", outcome), []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return ok("name", f"{place.host} is {', '.join(addresses)}"), addresses


async def check_connection(place: Place, addresses: list[str], timeout_s: float) -> Finding:
    """Open a TCP connection to the first address that takes one."""
    kinds: list[str] = []
    for address in addresses:
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(address, place.port)
        except OSError as error:  # a time-out is one, too
            kinds.append(_KINDS.get(type(error), "unreachable"))
            continue
        took_ms = 1000 * (time.monotonic() - began)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return ok("connection", f"{address} port {place.port} takes a connection in {took_ms:.1f} ms")
    kind = "unreachable" if "unreachable" in kinds else kinds[0]
    text = f"{', '.join(addresses)} port {place.port}"
    return failed("connection", transport_failure(kind, text, is_local=place.host in LOOPBACK))


_KINDS: Final[dict[type[OSError], str]] = {ConnectionRefusedError: "refused", ConnectionResetError: "reset"}
