"""The `rltelemetry` command: one function a subcommand, in one table.

Results go to stdout, complaints to stderr. Exit codes: 0 done, 1 it did not work, 2 bad arguments, 3 something is
missing, 130 interrupted, 141 whoever read the output is gone.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from rltelemetry import server
from rltelemetry.errors import RltelemetryError
from rltelemetry.settings import Resolved, resolve

__all__ = ["main"]

EXAMPLES: Final = """examples:
  rltelemetry up                 start an MLflow server here, and wait until it answers
  rltelemetry down               stop it
  rltelemetry sync               send what waits on disk
  rltelemetry doctor             find out why nothing arrives, step by step
  rltelemetry tail               watch the run that goes on here
  rltelemetry tail RUN_ID        watch a run of the MLflow server
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
    except BrokenPipeError:  # `| head` has seen enough; what is left in the buffer must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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
    _complain(f"the MLflow server {outcome}. Its output is in {embedded.log}:\n{_end_of(Path(embedded.log))}")
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


def _doctor(options: argparse.Namespace) -> int:
    from rltelemetry import doctor  # loads httpx and the OpenTelemetry SDK

    def show(finding: doctor.Finding) -> None:
        if finding.level is not doctor.Level.SKIPPED:
            print(doctor.as_line(finding), flush=True)

    resolved = _in_force(tracking_uri=options.uri, request_timeout_s=options.timeout)
    examination = doctor.Examination(resolved, is_read_only=options.read_only)
    uri = resolved.settings.tracking_uri
    if options.json:
        findings = examination.run()
        print(json.dumps(doctor.as_json(uri, findings), indent=2))
    else:
        findings = examination.run(show)
        print("\n".join([*doctor.skipped_lines(findings), f"{uri}: {doctor.conclusion(findings)}"]))
    return int(any(finding.is_failure for finding in findings))


def _in_force(**fields: Any) -> Resolved:
    """The settings in force; with no address given, the server that a training started here would use."""
    resolved = resolve(fields, os.environ)
    own = server.recorded(Path.cwd())
    if "tracking_uri" in resolved.sources or own is None or server.find() is not None:
        return resolved
    resolved = resolve({**fields, "tracking_uri": own.uri}, os.environ)
    return resolved._replace(sources={**resolved.sources, "tracking_uri": "the server of this directory"})


def _add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", nargs="?", metavar="URI", help="the server (default: the one that a training would use)")
    parser.add_argument("--read-only", action="store_true", help="write nothing on the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--timeout", type=float, metavar="S", help="longest wait for each answer (default: 3)")


def _tail_run(options: argparse.Namespace) -> int:
    from rltelemetry.tail import Screen, tail  # loads httpx

    resolved = _in_force(tracking_uri=options.tracking_uri)
    screen = Screen(sys.stdout)
    with contextlib.suppress(KeyboardInterrupt):  # the way to leave it
        tail(options.run, resolved, screen, tuple(options.keys), is_once=options.once or not screen.is_live)
    return 0


def _add_tail_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="DIR|RUN", help="a directory with spools, a run's id, or the address of its page"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="the server that has the run")
    parser.add_argument("--keys", nargs="+", default=[], metavar="PATTERN", help="only these keys, such as 'actor/*'")
    parser.add_argument("--once", action="store_true", help="print what is known now, and end")


def _down_command(options: argparse.Namespace) -> str:
    return f"rltelemetry down --directory {options.directory}" if options.directory else "rltelemetry down"


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, help="where its data lies (default: here)")


def _end_of(log: Path) -> str:
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
    "doctor": _Command(
        "examine the way to MLflow, step by step; exit code 1 if a check fails", _doctor, _add_doctor_arguments
    ),
    "tail": _Command("watch a run in the terminal, with or without a server", _tail_run, _add_tail_arguments),
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
