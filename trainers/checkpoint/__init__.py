"""Checkpoints: what they hold, where they lie, when they are made."""

from trainers.checkpoint.contents import Checkpoint, decode, encode
from trainers.checkpoint.keeper import Keeper
from trainers.checkpoint.state import Progress, RunState, Stateful
from trainers.checkpoint.store import CheckpointFolder, Found, checkpoints_in, files_of, newest_good, read_text

__all__ = [
    "Checkpoint",
    "CheckpointFolder",
    "Found",
    "Keeper",
    "Progress",
    "RunState",
    "Stateful",
    "checkpoints_in",
    "decode",
    "encode",
    "files_of",
    "newest_good",
    "read_text",
]
