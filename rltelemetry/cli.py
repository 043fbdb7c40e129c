"""The `rltelemetry` command: one function a subcommand, in one table.

Results go to stdout, complaints to stderr. Exit codes: 0 done, 1 it did not work, 2 bad arguments, 3 something is
missing.
"""

import argparse
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
"""


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
        print(f"rltelemetry: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _up(options: argparse.Namespace) -> int:
    embedded = server.ensure(options.directory)
    state = "starting" if embedded.is_new else "running"
    print(f"MLflow: {embedded.uri} ({state}; data in {options.directory}; stop it with `rltelemetry down`)", flush=True)
    if options.no_wait or server.is_answering(embedded, options.timeout):
        return 0
    print(
        f"rltelemetry: the server does not answer after {options.timeout:g} s; its output is in {embedded.log}",
        file=sys.stderr,
    )
    return 1


def _add_up_arguments(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it answers")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="longest wait in seconds (%(default)s)"
    )


def _down(options: argparse.Namespace) -> int:
    stopped = server.stop(options.directory)
    print(f"stopped {stopped.uri}" if stopped else "no server of ours runs here")
    return 0


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where its data lies (default: here)")


COMMANDS: Final = {
    "up": _Command("start an MLflow server of your own, or find the one that runs", _up, _add_up_arguments),
    "down": _Command("stop it", _down, _add_directory),
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
