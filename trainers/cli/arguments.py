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
from trainers.cli.resumption import AUTO, Saved, check_changes, read_saved
from trainers.config import Change, RunConfig, dump, load
from trainers.errors import ConfigError

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
    resume: str | None = Field(
        default=None,
        description="Go on from the newest checkpoint in this folder (or from this file), under the settings of then; "
        "auto: from checkpointing.directory if it holds one, and start there otherwise.",
    )
    load_model: Path | None = Field(
        default=None, description="Start from the networks in this folder or file; everything else starts afresh."
    )
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
        saved: the checkpoint to go on from.
        changes: what has other values than in that checkpoint.
        load_model: a checkpoint whose networks to start from.
    """

    config: ConfigT
    logging_flags: frozenset[str]
    is_offline: bool
    is_quiet: bool
    saved: Saved[ConfigT] | None = None
    changes: tuple[Change, ...] = ()
    load_model: Path | None = None


def parse(argv: Sequence[str], algorithm: AlgorithmEntry[ConfigT]) -> Arguments[ConfigT]:
    """Read the command line, and the file that it names.

    Raises:
        ConfigError: the file, or a combination with it, cannot be used.
        CheckpointError: the checkpoint cannot be used.
        SystemExit: 2 after tyro's message about a flag; 0 after --help, --version or --print-config.
    """
    model, path, resume = algorithm.config_model, _value_of("--config", argv), _value_of("--resume", argv)
    saved = read_saved(Path(resume), algorithm) if resume not in (None, AUTO) else None
    base = load(Path(path), model) if path else saved.config if saved else model()
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
    if resume is not None and flags.load_model is not None:
        raise ConfigError("--load-model: got it beside --resume; expected one of them. A resumed run has its networks.")
    if resume == AUTO:
        saved = _saved_in_its_folder(config, algorithm)
    if saved is not None and "directory" not in _given(spelt_out, "checkpointing"):
        config = _saving_to(saved.path.parent, config)
    return Arguments(
        config,
        _given(spelt_out, "logging"),
        flags.no_mlflow,
        flags.quiet,
        saved,
        tuple(check_changes(saved, config)) if saved else (),
        flags.load_model,
    )


def _saved_in_its_folder(config: ConfigT, algorithm: AlgorithmEntry[ConfigT]) -> Saved[ConfigT] | None:
    directory = config.checkpointing.directory
    if directory is None:
        raise ConfigError("--resume auto: got no folder; expected one. Give it with --checkpointing.directory.")
    from trainers.checkpoint import checkpoints_in  # loads torch, which a bad flag must not wait for

    return read_saved(Path(directory), algorithm) if checkpoints_in(Path(directory)) else None


def _saving_to(folder: Path, config: ConfigT) -> ConfigT:
    return config.model_copy(
        update={"checkpointing": config.checkpointing.model_copy(update={"directory": str(folder)})}
    )


def _value_of(name: str, argv: Sequence[str]) -> str | None:
    """A flag's value, before tyro, which needs what it leads to; tyro itself reports a flag without one."""
    given = None
    for flag, following in pairwise([*argv, ""]):
        found, equals, value = flag.partition("=")
        if found == name:
            given = (value if equals else following) or given
    return given


def _with_flags(base: RunConfig, path: str | None) -> BaseModel:
    """The sections, and beside them the flags; what `--help` shows are the file's values, under both of their names."""
    model = create_model("Flags", __base__=(Flags, type(base)))
    shortcuts = {flag: getattr(getattr(base, section), name) for flag, (section, name) in SHORTCUTS.items()}
    return model(config=Path(path) if path else None, **shortcuts, **_sections(base, type(base)))


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
