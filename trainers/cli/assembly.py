"""The parts of a run, built from its configuration, and put where its checkpoint says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from trainers.checkpoint import RunState
from trainers.cli.algorithms import AlgorithmEntry
from trainers.cli.arguments import Arguments
from trainers.cli.resumption import read_saved
from trainers.config import EvaluationConfig, RunConfig
from trainers.envs import VectorEnv, longest_episode, make_vector_env
from trainers.errors import CheckpointError, ConfigError
from trainers.evaluation import Evaluator
from trainers.loop import Algorithm
from trainers.ranks import Ranks
from trainers.rollout import EpisodeStatistics
from trainers.runtime import Runtime, prepare, restart_seed

__all__ = ["Parts", "assemble", "fitting", "share_of"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)

NO_EVALUATION: Final = EvaluationConfig(eval_interval=0)


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        runtime: device and seeds.
        env: the training's environments.
        evaluator: owns the evaluation's.
        algorithm: the learner.
        state: how far the run has come.
        renew: makes the training's environments that follow on an update.
        origin: where the networks come from, for the user; empty for new ones.
    """

    runtime: Runtime
    env: VectorEnv
    evaluator: Evaluator
    algorithm: Algorithm
    state: RunState
    renew: Callable[[int], VectorEnv]
    origin: str


def assemble(entry: AlgorithmEntry[ConfigT], arguments: Arguments[ConfigT]) -> Parts:
    """Build everything but telemetry and checkpoints.

    Raises:
        TrainersError: the task, a setting, the machine or the checkpoint is not up to it.
    """
    saved = arguments.saved
    runtime = prepare(arguments.config.hardware, arguments.config.training_core.seed)
    ranks = runtime.ranks
    config = share_of(arguments.config, ranks)
    first_env = ranks.rank * config.environment.num_envs

    def renew(update: int) -> VectorEnv:
        return _make_env(config, restart_seed(runtime.seeds.environment, update) + first_env)

    env = renew(saved.update) if saved else _make_env(config, runtime.seeds.environment + first_env)
    _check_exact(config)
    evaluator = Evaluator(config.evaluation if ranks.is_first else NO_EVALUATION, config.environment)
    algorithm = entry.build(env.spec, config, runtime)
    state, origin = RunState(algorithm, EpisodeStatistics(env.num_envs), ranks=ranks), ""
    if saved:
        fitting(saved.path, state.restore, saved.checkpoint)
        evaluator.renew(saved.update)
        origin = f"goes on from {saved.path}"
    elif arguments.load_model:
        source = read_saved(arguments.load_model, entry)
        fitting(source.path, algorithm.load_model, source.checkpoint.learner)
        origin = f"starts from the networks of {source.path}; optimisers, schedules and counts start afresh"
    return Parts(runtime, env, evaluator, algorithm, state, renew, origin)


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


def _make_env(config: RunConfig, seed: int) -> VectorEnv:
    environment = config.environment
    return make_vector_env(
        environment.task,
        environment.num_envs,
        seed,
        num_threads=environment.num_threads,
        max_episode_steps=environment.max_episode_steps,
        options=environment.options,
        num_groups=environment.num_groups,
    )


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
