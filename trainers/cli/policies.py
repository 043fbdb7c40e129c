"""A policy out of a checkpoint, with what it takes to run it: neither telemetry nor a training's environments."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainers.cli.algorithms import AlgorithmEntry
from trainers.cli.assembly import fitting
from trainers.cli.resumption import Saved, read_saved
from trainers.config import HardwareConfig, RunConfig
from trainers.envs import VectorEnv, make_vector_env
from trainers.loop import Algorithm
from trainers.runtime import prepare

__all__ = ["SavedPolicy", "make_env", "opened_policy"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class SavedPolicy:
    """A policy, and environments of its task.

    Attributes:
        saved: the checkpoint.
        algorithm: the learner, with the networks of then.
        env: environments to run it in.
    """

    saved: Saved[Any]
    algorithm: Algorithm
    env: VectorEnv

    @property
    def title(self) -> str:
        """What it is, for the user."""
        progress = self.saved.checkpoint.progress
        task = self.saved.config.environment.task
        return f"{self.saved.path}: {task} after {progress['update']} updates, {progress['timesteps']} timesteps"


@contextmanager
def opened_policy(
    entry: AlgorithmEntry[ConfigT], path: Path, device: str, num_envs: int, seed: int | None = None
) -> Iterator[SavedPolicy]:
    """Read a policy, and hold environments for it open for the block.

    Args:
        entry: its algorithm.
        path: a folder of checkpoints, or one file.
        device: where to run it.
        num_envs: environments to make.
        seed: of these environments; None takes the evaluation's own.

    Raises:
        TrainersError: the checkpoint, the task or the machine is not up to it.
    """
    saved = read_saved(path, entry)
    # nothing runs long enough here for compiling to pay
    hardware = HardwareConfig(device=device, compile="none", cuda_graphs=False)
    config = saved.config.model_copy(update={"hardware": hardware})
    with closing(make_env(config, num_envs, config.evaluation.seed if seed is None else seed)) as env:
        algorithm = entry.build(env.spec, config, prepare(config.hardware, config.training_core.seed))
        fitting(saved.path, algorithm.load_model, saved.checkpoint.learner)
        yield SavedPolicy(saved, algorithm, env)


def make_env(config: RunConfig, num_envs: int, seed: int, **options: Any) -> VectorEnv:
    """Make environments of a run's task, with further options."""
    environment = config.environment
    return make_vector_env(
        environment.task,
        num_envs,
        seed,
        num_threads=environment.num_threads,
        max_episode_steps=environment.max_episode_steps,
        options={**environment.options, **options},
    )
