"""`ppo export`: a saved policy as ONNX, from observations to actions, checked against the original."""

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tyro
from pydantic import BaseModel, Field

from trainers.cli.algorithms import AlgorithmEntry
from trainers.errors import CheckpointError, ConfigError, MissingError

if TYPE_CHECKING:
    from trainers.cli.policies import SavedPolicy

__all__ = ["export"]

PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")
NUM_CHECKS: Final = 32
"""Environments whose first observations the exported policy must answer as the original does."""
CHECK_STEPS: Final = 8
TOLERANCE: Final = 1e-4


class ExportFlags(BaseModel):
    """The flags of `export`."""

    file: tyro.conf.Positional[Path] = Field(description="Where to write the policy, such as policy.onnx.")
    checkpoint: Path = Field(description="Folder of checkpoints (the newest good one is taken), or one file.")


def export(entry: AlgorithmEntry[Any], argv: Sequence[str]) -> None:
    """Write a policy and say what it takes and gives.

    Raises:
        TrainersError: the checkpoint, the task or the machine is not up to it.
        SystemExit: 2 after tyro's message about a flag; 0 after --help.
    """
    description = f"Export a saved {entry.title} policy as ONNX: observations in, deterministic actions out."
    flags = tyro.cli(ExportFlags, prog=f"{entry.name} export", description=description, args=argv)
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise MissingError("export: needs onnx. Install it: pip install 'rltelemetry[export]'")
    if not flags.file.parent.is_dir():
        raise ConfigError(f"export: got {flags.file}; expected a folder that exists. Make {flags.file.parent}.")
    from trainers.cli.policies import opened_policy

    unfinished = flags.file.with_name(f".{flags.file.name}.{os.getpid()}.new")
    with opened_policy(entry, flags.checkpoint, "cpu", NUM_CHECKS) as policy:
        try:
            _write(policy, unfinished)
            num_checked = _check(policy, unfinished)
            unfinished.replace(flags.file)
        finally:
            unfinished.unlink(missing_ok=True)
        print(policy.title)
        print(f"{flags.file}: same actions on {num_checked} observations of shape {policy.env.spec.obs.shape}")


def _write(policy: "SavedPolicy", file: Path) -> None:
    import onnx
    import torch

    module = policy.algorithm.greedy_policy().eval()
    obs = torch.from_numpy(policy.env.reset())
    with _quiet():
        torch.onnx.export(
            module,
            (obs,),
            file,
            input_names=["obs"],
            output_names=["action"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = onnx.load(file)
    onnx.helper.set_model_props(model, _facts(policy))
    onnx.save(model, file)


def _facts(policy: "SavedPolicy") -> dict[str, str]:
    """What a user of the file cannot see in it."""
    saved, config = policy.saved, policy.saved.config
    return {
        "algorithm": saved.checkpoint.algorithm,
        "task": config.environment.task,
        "options": json.dumps(config.environment.options),
        "update": str(saved.update),
        "timesteps": str(saved.checkpoint.progress["timesteps"]),
    }


def _check(policy: "SavedPolicy", file: Path) -> int:
    """Compare with the original where the policy goes; returns on how many observations.

    Raises:
        CheckpointError: the actions differ.
    """
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    original = policy.algorithm.greedy_policy().eval()
    obs, num_checked = policy.env.reset(), 0
    for _ in range(CHECK_STEPS):
        with torch.inference_mode():
            action = original(torch.from_numpy(obs)).numpy()
        (exported,) = session.run(None, {"obs": np.ascontiguousarray(obs)})
        if exported.shape != action.shape or not np.allclose(exported, action, TOLERANCE, TOLERANCE):
            raise CheckpointError(
                f"export: got other actions from the exported policy than from {policy.saved.path}; expected the same. "
                "Nothing is written. Please report the task and the architecture."
            )
        num_checked += len(obs)
        obs = policy.env.step(action).obs
    return num_checked


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own innards and of packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
