"""Loopback ports for servers that bind them only seconds after they were started.

Whoever takes a port writes down which process will bind it, in a list of this user's; the next one passes it over for
as long as that process lives.
"""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rltelemetry.errors import ServerError, SettingsError
from rltelemetry.locks import locked
from rltelemetry.places import state_directory
from rltelemetry.processes import start_mark

__all__ = ["Claim", "claimed_port"]


@dataclass(frozen=True)
class Claim:
    """A port that is ours to give away.

    Attributes:
        port: its number.
        note: where its holder is written down; None where there is no place for the list.
    """

    port: int
    note: Path | None

    def give_to(self, pid: int, mark: str) -> None:
        """Write down the process that will bind it, with its `start_mark`."""
        if self.note is not None:
            self.note.write_text(f"{pid} {mark}")


@contextlib.contextmanager
def claimed_port(host: str, first: int, last: int) -> Iterator[Claim]:
    """Find a free port and keep others from it until the block is left; they then heed who was given it.

    Raises:
        ServerError: none is free.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = state_directory() / "ports"
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        except (OSError, ServerError, SettingsError):
            yield Claim(_free_port(host, first, last, None), None)
            return
        port = _free_port(host, first, last, folder)
        yield Claim(port, folder / str(port))


def _free_port(host: str, first: int, last: int, claims: Path | None) -> int:
    for port in range(first, last + 1):
        if claims is not None and _is_claimed(claims / str(port)):
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise ServerError(
        f"loopback ports: got none free from {first} to {last}; expected one. "
        "Stop a server there, or give the address of an MLflow server."
    )


def _is_claimed(claim: Path) -> bool:
    try:
        pid, mark = claim.read_text().split(maxsplit=1)
        return bool(mark) and start_mark(int(pid)) == mark
    except (OSError, ValueError):
        return False
