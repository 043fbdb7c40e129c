"""What a checkpoint holds, and its way into bytes and back.

Only tensors, numbers, texts, and lists and dicts of these: reading one runs no code, whoever has written it.
"""

import io
import warnings
from dataclasses import dataclass, fields
from typing import Any, Final

import torch

from trainers.errors import CheckpointError

__all__ = ["Checkpoint", "decode", "encode"]

FORMAT: Final = 4
"""Raised when an older program could not read what is saved."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after an update.

    Attributes:
        algorithm: its name.
        config: the run's whole configuration.
        progress: how far the run has come.
        episodes: the statistics of finished episodes.
        learner: the algorithm's own state: networks, optimisers, normalisers, generators.
        random: the global generators.
        ranks: what each of the other ranks has of its own: the learner's part, episodes, generators.
        telemetry: by what the run goes on in MLflow.
        versions: of the packages that have written it.
    """

    algorithm: str
    config: dict[str, Any]
    progress: dict[str, Any]
    episodes: dict[str, Any]
    learner: dict[str, Any]
    random: dict[str, Any]
    ranks: list[dict[str, Any]]
    telemetry: dict[str, Any]
    versions: dict[str, str]


def encode(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as bytes."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
    return buffer.getvalue()


def decode(content: bytes, name: str) -> Checkpoint:
    """Read a checkpoint; all tensors come to the CPU.

    Args:
        content: what `encode` has returned.
        name: what the bytes are called in messages.

    Raises:
        CheckpointError: they are something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes can make a parser fail in any way
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{name}: is no checkpoint, which holds plain data only: {reason}.") from None
    expected = {"format", *(field.name for field in fields(Checkpoint))}
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.keys() != expected:
        raise CheckpointError(f"{name}: {_foreign(values)}")
    del values["format"]
    return Checkpoint(**values)


def _foreign(values: Any) -> str:
    """What is wrong with a checkpoint of another format, and what to do."""
    stored = values if isinstance(values, dict) else {}
    versions = stored.get("versions")
    version = versions.get("rltelemetry") if isinstance(versions, dict) else None
    writer = f", saved by rltelemetry {version}" if version else ""
    return (
        f"got a checkpoint of format {stored.get('format', 'unknown')}{writer}; expected format {FORMAT}. Train again, "
        "or resume, evaluate, export or load it with the commit that has saved it."
    )
