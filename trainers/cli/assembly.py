"""The parts of a run, built from its configuration, and put where its checkpoint says."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from trainers.checkpoint import RunState
from trainers.cli.algorithms import AlgorithmEntry
from trainers.cli.arguments import Arguments
from trainers.cli.resumption import read_saved
from trainers.config import EvaluationConfig, RunConfig
from trainers.envs import RenewableEnv, VectorEnv, longest_episode, make_vector_env
from trainers.errors import CheckpointError, ConfigError
from trainers.evaluation import Evaluator
from trainers.loop import Algorithm
from trainers.ranks import Ranks
from trainers.rollout import EpisodeStatistics
from trainers.runtime import Runtime, prepare, seed_after

__all__ = ["Parts", "assembled", "fitting", "share_of"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)

NO_EVALUATION: Final = EvaluationConfig(eval_interval=0)


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        runtime: device and seeds.
        env: owns the training's environments.
        evaluator: owns the evaluation's.
        algorithm: the learner.
        state: how far the run has come.
        origin: where the networks come from, for the user; empty for new ones.
    """

    runtime: Runtime
    env: RenewableEnv
    evaluator: Evaluator
    algorithm: Algorithm
    state: RunState
    origin: str


@contextmanager
def assembled(entry: AlgorithmEntry[ConfigT], arguments: Arguments[ConfigT]) -> Iterator[Parts]:
    """Build everything but telemetry and checkpoints, for the block; then leave the other ranks and close environments.

    Raises:
        TrainersError: the task, a setting, the machine or the checkpoint is not up to it.
    """
    update = arguments.saved.update if arguments.saved else 0
    runtime = prepare(arguments.config.hardware, arguments.config.training_core.seed)
    with closing(runtime.ranks) as ranks:
        config = share_of(arguments.config, ranks)
        evaluation = config.evaluation if ranks.is_first else NO_EVALUATION
        with (
            closing(RenewableEnv(_env_maker(config, runtime), update)) as env,
            closing(Evaluator(evaluation, config.environment, update)) as evaluator,
        ):
            _check_exact(config)
            algorithm = entry.build(env.current.spec, config, runtime)
            state = RunState(algorithm, EpisodeStatistics(env.current.num_envs), ranks=ranks)
            origin = _restore(entry, arguments, algorithm, state)
            yield Parts(runtime, env, evaluator, algorithm, state, origin)


def _restore(
    entry: AlgorithmEntry[ConfigT], arguments: Arguments[ConfigT], algorithm: Algorithm, state: RunState
) -> str:
    """Put a run where the command line says; returns where its networks come from."""
    saved = arguments.saved
    if saved:
        fitting(saved.path, state.restore, saved.checkpoint)
        return f"goes on from {saved.path}"
    if arguments.load_model:
        source = read_saved(arguments.load_model, entry)
        fitting(source.path, algorithm.load_model, source.checkpoint.learner)
        return f"starts from the networks of {source.path}; optimisers, schedules and counts start afresh"
    return ""


def share_of(config: ConfigT, ranks: Ranks) -> ConfigT:
    """Return one rank's share of a run: as many updates, on its part of the environments.

    Raises:
        ConfigError: it cannot be shared.
    """
    if ranks.size == 1:
        return config
    num_envs = config.environment.num_envs
    if num_envs % ranks.size:
        raise ConfigError(f"environment.num_envs: got {num_envs} for {ranks.size} ranks; expected a multiple of these.")
    if config.hardware.compile not in {"auto", "none"}:
        raise ConfigError(
            f"hardware.compile: got {config.hardware.compile!r} with {ranks.size} ranks; expected auto or none."
        )
    sections = {name: getattr(config, name) for name in type(config).model_fields}
    sections["environment"] = config.environment.model_copy(update={"num_envs": num_envs // ranks.size})
    total_timesteps = config.num_updates * (config.batch_size // ranks.size)
    sections["training_core"] = config.training_core.model_copy(update={"total_timesteps": total_timesteps})
    try:
        return type(config)(**sections)
    except ValidationError as error:
        raise ConfigError(f"{ranks.size} ranks: {error.errors(include_url=False)[0]['msg']}") from None


def fitting(path: object, load: Callable[[Any], None], state: Any) -> None:
    """Load a state.

    Raises:
        CheckpointError: it is that of other networks.
    """
    try:
        load(state)
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: does not fit the task and the architecture that are given: {reason}") from None


def _env_maker(config: RunConfig, runtime: Runtime) -> Callable[[int], VectorEnv]:
    """What makes this rank's environments that follow on an update."""
    environment = config.environment
    first_env = runtime.ranks.rank * environment.num_envs

    def make(update: int) -> VectorEnv:
        return make_vector_env(
            environment.task,
            environment.num_envs,
            seed_after(runtime.seeds.environment, update) + first_env,
            num_threads=environment.num_threads,
            max_episode_steps=environment.max_episode_steps,
            options=environment.options,
            num_groups=environment.num_groups,
        )

    return make


def _check_exact(config: RunConfig) -> None:
    """Refuse barriers so close that no episode would reach its end."""
    checkpointing, horizon = config.checkpointing, config.training_core.horizon
    if not (checkpointing.save and checkpointing.exact):
        return
    longest, between = longest_episode(config.environment), checkpointing.interval * horizon
    if longest is None or between < longest:
        rule = f"at least the {longest} of the longest episode" if longest else "episodes of a limited length"
        raise ConfigError(
            f"checkpointing.exact: got {between} steps between two checkpoints (interval {checkpointing.interval} x "
            f"horizon {horizon}); expected {rule}. Raise checkpointing.interval, or set environment.max_episode_steps."
        )
