"""The command line of an algorithm: the YAML file's values are the defaults of the flags, and tyro does the rest."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Generic, TypeVar

import tyro
from pydantic import BaseModel, Field, create_model

from trainers.cli.algorithms import AlgorithmEntry
from trainers.config import RunConfig, dump, load

__all__ = ["Arguments", "parse"]

SHORTCUTS: Final = {
    "seed": ("training_core", "seed"),
    "device": ("hardware", "device"),
    "run_name": ("logging", "run_name"),
    "mlflow_run_id": ("logging", "run_id"),
}
"""Flags that stand for a setting in a section, and are replaced by its own flag before tyro looks."""

ConfigT = TypeVar("ConfigT", bound=RunConfig)

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag without a `--no-` form."""


class Flags(BaseModel):
    """The flags that no file can hold."""

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
class Arguments(Generic[ConfigT]):
    """What the command line asks for.

    Attributes:
        config: the settings: flag over file over default.
        logging_flags: the settings of section `logging` that came as flags, so that they can win over the environment.
        is_offline: send nothing to MLflow, and start no server.
        is_quiet: show errors only.
    """

    config: ConfigT
    logging_flags: frozenset[str]
    is_offline: bool
    is_quiet: bool


def parse(argv: Sequence[str], algorithm: AlgorithmEntry[ConfigT]) -> Arguments[ConfigT]:
    """Read the command line, and the file that it names.

    Raises:
        ConfigError: the file, or a combination with it, cannot be used.
        SystemExit: 2 after tyro's message about a flag; 0 after --help, --version or --print-config.
    """
    model, path = algorithm.config_model, _config_path(argv)
    base = load(path, model) if path else model()
    spelt_out = _without_shortcuts(argv)
    defaults = _with_flags(base, path)
    flags: Any = tyro.cli(
        type(defaults), prog=algorithm.name, description=algorithm.description, args=spelt_out, default=defaults
    )
    config = model(**_sections(flags, model))
    if flags.version:
        print(f"{algorithm.name} {version('rltelemetry')}")
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


def _with_flags(base: RunConfig, path: Path | None) -> BaseModel:
    """The sections, and beside them the flags; what `--help` shows are the file's values, under both of their names."""
    model = create_model("Flags", __base__=(Flags, type(base)))
    shortcuts = {flag: getattr(getattr(base, section), name) for flag, (section, name) in SHORTCUTS.items()}
    return model(config=path, **shortcuts, **_sections(base, type(base)))


def _sections(holder: BaseModel, model: type[RunConfig]) -> dict[str, Any]:
    return {name: getattr(holder, name) for name in model.model_fields}


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
