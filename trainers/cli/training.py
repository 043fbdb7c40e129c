"""One run of an algorithm, put together: runtime, environments, learner, evaluation, telemetry, loop."""

from collections.abc import Mapping
from typing import Any, TypeVar

import rltelemetry
from trainers.cli.algorithms import AlgorithmEntry
from trainers.config import RunConfig
from trainers.emit import Emitter
from trainers.envs import VectorEnv, make_vector_env
from trainers.evaluation import Evaluator
from trainers.loop import Outcome, train
from trainers.runtime import prepare

__all__ = ["train_algorithm"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def train_algorithm(
    entry: AlgorithmEntry[ConfigT], config: ConfigT, telemetry_fields: Mapping[str, Any], patience_s: float = 0.0
) -> Outcome:
    """Train; the telemetry is opened once everything else stands, so that a mistake leaves no run behind.

    Args:
        entry: the algorithm.
        config: the run's settings.
        telemetry_fields: keyword arguments of `rltelemetry.configure`.
        patience_s: how long to wait, when training is done, for a server that is still starting.

    Raises:
        TrainersError: the task, a setting or the machine is not up to it, or training diverged.
    """
    runtime = prepare(config.hardware, config.training_core.seed)
    env = _make_env(config, runtime.seeds.environment)
    evaluator = Evaluator(config.evaluation, config.environment)
    algorithm = entry.build(env.spec, config, runtime)
    with rltelemetry.configure(**telemetry_fields) as telemetry:
        telemetry.log_params(config.model_dump(exclude={"logging"}))
        telemetry.set_tags({"algorithm": entry.name, "task": config.environment.task, "device": str(runtime.device)})
        emitter = Emitter(entry.name, telemetry)
        emitter.started(
            task=config.environment.task,
            device=str(runtime.device),
            num_parameters=sum(parameter.numel() for parameter in algorithm.network.parameters()),
            num_updates=config.num_updates,
            batch_size=config.batch_size,
        )
        outcome = train(algorithm, env, evaluator, emitter, config.num_updates)
        emitter.finished(
            duration_s=outcome.duration_s,
            steps_per_second=outcome.steps_per_second,
            mean_return=outcome.evaluation.mean_return if outcome.evaluation else None,
        )
        telemetry.wait_ready(patience_s)
    return outcome


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
