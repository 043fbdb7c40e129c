"""The command line of `ppo`: the YAML file's values are the defaults of the flags, and tyro does the rest."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from pydantic import Field

from trainers.config import PpoConfig, dump, load

__all__ = ["Arguments", "parse"]

DESCRIPTION: Final = """Train PPO on an envpool task; watch it in MLflow.

Examples:

  ppo --config configs/ppo.yaml

  ppo --config configs/ppo.yaml --seed 2 --optimization.actor-lr 1e-3"""

SHORTCUTS: Final = {
    "seed": ("training_core", "seed"),
    "device": ("hardware", "device"),
    "run_name": ("logging", "run_name"),
    "mlflow_run_id": ("logging", "run_id"),
}
"""Flags that stand for a setting in a section, and are replaced by its own flag before tyro looks."""

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag without a `--no-` form."""


class Flags(PpoConfig):
    """The sections, and the flags that no file can hold."""

    config: Path | None = Field(default=None, description="YAML file with settings; flags win over it.")
    seed: int | None = Field(default=None, description="Short for --training-core.seed.")
    device: str | None = Field(default=None, description="Short for --hardware.device.")
    run_name: str | None = Field(default=None, description="Short for --logging.run-name.")
    mlflow_run_id: str | None = Field(default=None, description="Short for --logging.run-id.")
    no_mlflow: Switch = Field(default=False, description="Send nothing to MLflow, and start no server.")
    quiet: Switch = Field(default=False, description="Show errors only.")
    print_config: Switch = Field(default=False, description="Print the resulting settings as YAML, and exit.")
    version: Switch = Field(default=False, description="Print the version, and exit.")


@dataclass(frozen=True)
class Arguments:
    """What the command line asks for.

    Attributes:
        config: the settings: flag over file over default.
        logging_flags: the settings of section `logging` that came as flags, so that they can win over the environment.
        is_offline: send nothing to MLflow, and start no server.
        is_quiet: show errors only.
    """

    config: PpoConfig
    logging_flags: frozenset[str]
    is_offline: bool
    is_quiet: bool


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line, and the file that it names.

    Raises:
        ConfigError: the file, or a combination with it, cannot be used.
        SystemExit: 2 after tyro's message about a flag; 0 after --help, --version or --print-config.
    """
    path = _config_path(argv)
    base = load(path, PpoConfig) if path else PpoConfig()
    spelt_out = _without_shortcuts(argv)
    flags = tyro.cli(Flags, prog="ppo", description=DESCRIPTION, args=spelt_out, default=_defaults(base, path))
    config = PpoConfig(**_sections(flags))
    if flags.version:
        print(f"ppo {version('rltelemetry')}")
        raise SystemExit(0)
    if flags.print_config:
        sys.stdout.write(dump(config))
        raise SystemExit(0)
    return Arguments(config, _given(spelt_out, "logging"), flags.no_mlflow, flags.quiet)


def _config_path(argv: Sequence[str]) -> Path | None:
    """The file must be read before tyro can show its values; tyro itself reports a flag without one."""
    path = None
    for flag, following in pairwise([*argv, ""]):
        name, equals, value = flag.partition("=")
        if name == "--config" and (value if equals else following):
            path = Path(value if equals else following)
    return path


def _defaults(base: PpoConfig, path: Path | None) -> Flags:
    """What `--help` shows: the file's values, under both of their names."""
    shortcuts = {flag: getattr(getattr(base, section), name) for flag, (section, name) in SHORTCUTS.items()}
    return Flags(config=path, **shortcuts, **_sections(base))


def _sections(config: PpoConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in PpoConfig.model_fields}


def _without_shortcuts(argv: Sequence[str]) -> list[str]:
    """Spell the shortcuts out, so that the last of two flags for one setting wins, as anywhere."""
    spelt_out = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        section, name = SHORTCUTS.get(_setting(flag), ("", "")) if flag.startswith("--") else ("", "")
        spelt_out.append(f"--{section}.{name}".replace("_", "-") + equals + value if section else argument)
    return spelt_out


def _given(argv: Sequence[str], section: str) -> frozenset[str]:
    """The settings of a section that came as flags; `--logging.no-x` speaks of x."""
    flags = [_setting(argument.partition("=")[0]) for argument in argv if argument.startswith(f"--{section}.")]
    names = [flag.removeprefix(f"{section}.") for flag in flags]
    return frozenset([*names, *(name.removeprefix("no_") for name in names)])


def _setting(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
