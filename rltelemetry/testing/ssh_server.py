"""A real sshd on loopback, and reverse tunnels through it: the way from a training host to a laptop, on one machine.

Keys and configuration are made for the occasion, in a directory of their own; nothing of the user's is read. What
breaks a tunnel in life can be done to one: the client dies (`close`), the laptop sleeps (`suspend`), the session is
ended on the host (`end_sessions`) or no longer heard of (`suspend_sessions`), the whole host goes away (`stop`).
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["SshServer", "Tunnel", "missing_programs"]

HOST: Final = "127.0.0.1"
SSHD: Final = ("/usr/sbin/sshd", "/usr/local/sbin/sshd")
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")
"""sshd needs it when root starts it."""

START_S: Final = 30.0
STOP_S: Final = 10.0
POLL_S: Final = 0.05

OPENED: Final = "remote forward success"
"""What `ssh -v` prints once the host listens."""

CONFIG: Final = """
ListenAddress {host}
Port {port}
HostKey {directory}/host_key
PidFile {directory}/sshd.pid
AuthorizedKeysFile {directory}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
PrintMotd no
LogLevel VERBOSE
"""


def missing_programs() -> list[str]:
    """Name what is not installed of the programs that this needs."""
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    return missing if _sshd() else [*missing, "sshd"]


class SshServer:
    """A context manager: sshd runs inside the block.

    Args:
        directory: where keys, configuration and log go; None makes one and removes it at the end.
        options: further lines of `sshd_config`.
    """

    def __init__(self, directory: Path | None = None, options: str = "") -> None:
        self._own_directory = None if directory else tempfile.TemporaryDirectory(prefix="sshd-")
        self.directory = directory or Path(self._own_directory.name if self._own_directory else ".")
        self.port = _free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._tunnels: list[Tunnel] = []

    @property
    def user(self) -> str:
        """Whom one logs in as."""
        return getpass.getuser()

    @property
    def key(self) -> Path:
        """The private key that lets one in."""
        return self.directory / "user_key"

    @property
    def known_hosts(self) -> Path:
        """The file that tells a client the host's key."""
        return self.directory / "known_hosts"

    def start(self) -> None:
        """Start, and wait until it listens.

        Raises:
            RuntimeError: it did not; the message has its log.
        """
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self._make_files()
        with (self.directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_sshd(), "-D", "-e", "-f", str(self.directory / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not _is_open(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"sshd: got no answer; expected one in {START_S:g} s. Its log: {self.said()[-2000:]}"
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End sshd and every session, as when the host goes down."""
        process, self._process = self._process, None
        if process is not None:
            self.end_sessions(process.pid)
            process.terminate()
            process.wait(STOP_S)

    def end_sessions(self, parent: int | None = None) -> None:
        """End the host's side of every session; sshd goes on."""
        self._signal_sessions(signal.SIGKILL, parent)

    def suspend_sessions(self) -> None:
        """Freeze the host's side of every session: its ports stay open, and nothing is heard of it any more."""
        self._signal_sessions(signal.SIGSTOP)

    def said(self) -> str:
        """Return what sshd has logged."""
        return (self.directory / "sshd.log").read_text(errors="replace")

    def tunnel(self, remote_port: int, local_port: int) -> "Tunnel":
        """Open `ssh -N -R remote_port:localhost:local_port`, and wait until the host listens there."""
        tunnel = Tunnel(self, remote_port, local_port)
        self._tunnels.append(tunnel)
        tunnel.wait()
        return tunnel

    def options(self) -> list[str]:
        """Return what makes `ssh` come here, and reads nothing of the user's."""
        return [
            *("-F", "none", "-i", str(self.key), "-p", str(self.port), "-l", self.user),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tunnel in self._tunnels:
            tunnel.close()
        self.stop()
        if self._own_directory is not None:
            self._own_directory.cleanup()

    def _signal_sessions(self, number: signal.Signals, parent: int | None = None) -> None:
        owner = parent or (self._process.pid if self._process else None)
        for pid in _descendants(owner) if owner else []:  # below pid 0 are all processes of the machine
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _make_files(self) -> None:
        for name in ("host_key", "user_key"):
            if not (self.directory / name).exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        config = CONFIG.format(host=HOST, port=self.port, directory=self.directory)
        (self.directory / "sshd_config").write_text(f"{config}{self._options}\n")
        host_key = (self.directory / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {host_key}")


class Tunnel:
    """One `ssh -N -R`, as the runbook starts it.

    Args:
        server: the host.
        remote_port: where the host listens.
        local_port: where that leads to, on this side.
    """

    def __init__(self, server: SshServer, remote_port: int, local_port: int) -> None:
        self.remote_port = remote_port
        self._log = server.directory / f"tunnel-{remote_port}-{time.monotonic_ns()}.log"
        options = ("ExitOnForwardFailure=yes", "ServerAliveInterval=2", "ServerAliveCountMax=3")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("ssh", "-v", "-N", *server.options(), "-R", f"{HOST}:{remote_port}:{HOST}:{local_port}"),
                    *(part for option in options for part in ("-o", option)),
                    HOST,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def uri(self) -> str:
        """The address on the host."""
        return f"http://localhost:{self.remote_port}"

    def wait(self, timeout_s: float = START_S) -> None:
        """Wait until the host listens.

        Raises:
            RuntimeError: the tunnel ended, or did not open in time; the message has what ssh said.
        """
        deadline = time.monotonic() + timeout_s
        while OPENED not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                code = self._process.poll()
                raise RuntimeError(f"ssh: got exit code {code}; expected an open tunnel. It said: {self.said()}")
            time.sleep(POLL_S)

    def suspend(self) -> None:
        """Freeze the client, as a laptop that sleeps."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Wake it."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the client, and wait until the host has let go of the port."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
        self._process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while _is_open(self.remote_port) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def wait_for_end(self, timeout_s: float = START_S) -> int:
        """Wait until ssh ends by itself, and return its exit code."""
        return self._process.wait(timeout_s)

    def said(self) -> str:
        """Return what ssh has printed, but for its debug lines."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith(("debug", "OpenSSH_")))


def _sshd() -> str:
    found = shutil.which("sshd") or next((path for path in SSHD if Path(path).exists()), None)
    return found or ""


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> list[int]:
    """The processes below one, the deepest first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    below: list[int] = []
    waiting = children.get(pid, [])
    while waiting:
        below = waiting + below
        waiting = [grandchild for child in waiting for grandchild in children.get(child, [])]
    return below
