"""The `rltelemetry` command: one function a subcommand, in one table.

Results go to stdout, complaints to stderr. Exit codes: 0 done, 1 it did not work, 2 bad arguments, 3 something is
missing, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from rltelemetry import server
from rltelemetry.errors import RltelemetryError

__all__ = ["main"]

EXAMPLES: Final = """examples:
  rltelemetry up                 start an MLflow server here, and wait until it answers
  rltelemetry down               stop it
  rltelemetry sync               send what waits on disk
"""
LOG_TAIL: Final = 10
"""Lines of the server's output that are shown when it fails."""


class _Command(NamedTuple):
    summary: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[options.command].run(options)
    except RltelemetryError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _up(options: argparse.Namespace) -> int:
    directory = options.directory or Path.cwd()
    embedded = server.ensure(directory)
    state = "starting" if embedded.is_new else "running"
    print(f"MLflow: {embedded.uri} ({state}; data in {directory}; stop it with `{_down_command(options)}`)", flush=True)
    if options.no_wait:
        return 0
    if embedded.is_new:
        print(f"waiting up to {options.timeout:g} s until it answers", flush=True)
    if server.is_answering(embedded, options.timeout):
        print("it answers")
        return 0
    has_ended = server.recorded(directory) is None
    outcome = "has ended" if has_ended else f"does not answer after {options.timeout:g} s, and goes on starting"
    _complain(f"the MLflow server {outcome}. Its output is in {embedded.log}:\n{_tail(Path(embedded.log))}")
    return 1


def _add_up_arguments(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it answers")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="longest wait in seconds (default: %(default)g)"
    )


def _down(options: argparse.Namespace) -> int:
    stopped = server.stop(options.directory)
    print(f"stopped {stopped.uri}" if stopped else "no server of ours runs here")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from rltelemetry.sync import sync  # loads httpx, which no other command needs

    is_done = sync(
        options.directory,
        lambda line: print(line, flush=True),
        os.environ,
        tracking_uri=options.tracking_uri,
        is_patient=options.wait,
    )
    return 0 if is_done else 1


def _add_sync_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", nargs="?", type=Path, metavar="DIR", help="where the data waits (default: the usual place)"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="the server to send to (default: the run's own)")
    parser.add_argument("--wait", action="store_true", help="wait for a server that is down")


def _down_command(options: argparse.Namespace) -> str:
    return f"rltelemetry down --directory {options.directory}" if options.directory else "rltelemetry down"


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, help="where its data lies (default: here)")


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_TAIL:])


def _complain(text: str) -> None:
    print(f"rltelemetry: {text}", file=sys.stderr)


COMMANDS: Final = {
    "up": _Command("start an MLflow server of your own, or find the one that runs", _up, _add_up_arguments),
    "down": _Command("stop it", _down, _add_directory),
    "sync": _Command(
        "send what ended runs have left on disk; exit code 1 if anything stays", _sync, _add_sync_arguments
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltelemetry",
        description="Operate the telemetry of training runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rltelemetry {version('rltelemetry')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.summary, description=command.summary))
    return parser
