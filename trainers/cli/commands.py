"""The commands from start to exit code.

0 done; 1 unexpected, with a traceback, or diverged; 2 bad flags, file or task; 3 something is not installed or not
there; 128 + number after a signal. Telemetry never changes the code.

What is slow to import (torch, envpool) or comes with an extra is imported where it is needed: `--help` stays quick,
MLflow's address stands on the screen before torch is loaded, and a missing package becomes a sentence.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from trainers.cli.screen import complain, is_first_rank, say
from trainers.errors import MissingError, TrainersError

if TYPE_CHECKING:
    from trainers.cli.algorithms import AlgorithmEntry
    from trainers.cli.signals import Interruption

__all__ = ["ppo", "spo"]

EXTRA: Final = frozenset({"envpool", "gymnasium", "numpy", "psutil", "ruamel", "torch", "tyro"})
"""What `[trainers]` installs."""


def ppo(argv: Sequence[str] | None = None) -> int:
    """Run `ppo`; returns its exit code."""
    return _run("ppo", argv)


def spo(argv: Sequence[str] | None = None) -> int:
    """Run `spo`; returns its exit code."""
    return _run("spo", argv)


def _run(command: str, argv: Sequence[str] | None) -> int:
    """Turn what users can mend into one line and an exit code; anything else keeps its traceback."""
    from rltelemetry.errors import SettingsError

    try:
        _dispatch(command, sys.argv[1:] if argv is None else argv)
        return 0
    except (TrainersError, SettingsError) as error:
        complain(f"{command}: {error}")
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        complain(f"{command}: {package} is not installed. Install it: pip install 'rltelemetry[trainers]'")
        return MissingError.exit_code


def _dispatch(command: str, argv: Sequence[str]) -> None:
    from trainers.cli.algorithms import ALGORITHMS
    from trainers.cli.signals import handles_signals

    algorithm, task = ALGORITHMS[command], argv[0] if argv else ""
    with handles_signals() as interruption:
        if task == "eval":
            from trainers.cli.evaluate import evaluate

            evaluate(algorithm, argv[1:])
        elif task == "export":
            from trainers.cli.export import export

            export(algorithm, argv[1:])
        else:
            _train(algorithm, argv, interruption)


def _train(algorithm: "AlgorithmEntry[Any]", argv: Sequence[str], interruption: "Interruption") -> None:
    from trainers.cli.arguments import parse
    from trainers.cli.telemetry import choose_server, telemetry_fields

    arguments = parse(argv, algorithm)
    fields = telemetry_fields(algorithm.name, arguments, os.environ)
    if is_first_rank():
        fields |= choose_server(fields, os.environ, (lambda _: None) if arguments.is_quiet else say)

    from trainers.cli.training import train_algorithm

    train_algorithm(algorithm, arguments, fields, interruption)
