"""What the trainers raise for their users; everything else is a defect and shows its traceback.

TrainersError
 ├─ ConfigError      a setting, a file or a combination of settings cannot be used  exit code 2
 ├─ CheckpointError  a checkpoint cannot be used, or its folder not be written      exit code 2
 ├─ TaskError        the task does not exist, or cannot be trained on               exit code 2
 ├─ MissingError     the machine lacks something: a GPU, a package                  exit code 3
 ├─ RankLostError    another process of the run is gone                             exit code 1
 └─ DivergenceError  training has produced a number that is not finite              exit code 1
"""

from typing import ClassVar

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DivergenceError",
    "MissingError",
    "RankLostError",
    "TaskError",
    "TrainersError",
]


class TrainersError(Exception):
    """The root: its message is one line for the user, and `exit_code` is how the command ends."""

    exit_code: ClassVar[int] = 1


class ConfigError(TrainersError):
    """A setting, a file or a combination of settings cannot be used."""

    exit_code = 2


class CheckpointError(TrainersError):
    """A checkpoint cannot be used, or the folder for checkpoints not be written."""

    exit_code = 2


class TaskError(TrainersError):
    """The task does not exist, or cannot be trained on."""

    exit_code = 2


class MissingError(TrainersError):
    """The machine lacks what was asked for: a GPU, an optional package."""

    exit_code = 3


class RankLostError(TrainersError):
    """Another process of the run is gone; this one cannot go on without it."""


class DivergenceError(TrainersError):
    """Training has produced a number that is not finite; going on would only hide where."""
