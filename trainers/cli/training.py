"""One run of an algorithm, from its parts to its end."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import rltelemetry
from rltelemetry import Telemetry
from trainers.checkpoint import CheckpointFolder, Keeper, RunState
from trainers.cli.algorithms import AlgorithmEntry
from trainers.cli.arguments import Arguments
from trainers.cli.artifacts import Artifacts, restore_curve
from trainers.cli.assembly import Parts, assembled
from trainers.cli.description import describe
from trainers.cli.folders import checkpoint_folder
from trainers.cli.signals import PATIENCE_S, Interruption
from trainers.cli.telemetry import EMITTED, steps_already_there
from trainers.config import RunConfig
from trainers.divergence import DivergenceGuard
from trainers.emit import Emitter
from trainers.loop import Outcome, train
from trainers.survival import Survival

__all__ = ["train_algorithm"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def train_algorithm(
    entry: AlgorithmEntry[ConfigT],
    arguments: Arguments[ConfigT],
    telemetry_fields: Mapping[str, Any],
    interruption: Interruption,
) -> Outcome:
    """Train; the telemetry is opened once everything else stands, so that a mistake leaves no run behind.

    Args:
        entry: the algorithm.
        arguments: the run's settings, and where it goes on from.
        telemetry_fields: keyword arguments of `rltelemetry.configure`.
        interruption: tells of signals.

    Raises:
        TrainersError: the task, a setting or the machine is not up to it, or training diverged.
        SystemExit: a signal has asked for it; the run is saved.
    """
    with assembled(entry, arguments) as parts:
        if parts.runtime.ranks.is_first:
            return _train_and_talk(entry, arguments, telemetry_fields, interruption, parts)
        return _train(parts, arguments.config, entry.name, None, None, Emitter.silent(), interruption)


def _train_and_talk(
    entry: AlgorithmEntry[ConfigT],
    arguments: Arguments[ConfigT],
    telemetry_fields: Mapping[str, Any],
    interruption: Interruption,
    parts: Parts,
) -> Outcome:
    """Train as the first rank, or alone: with telemetry and checkpoints."""
    with checkpoint_folder(entry.name, arguments) as folder:
        complaints: list[str] = []
        stored = steps_already_there(telemetry_fields, arguments.saved, complaints.append)
        fields = {**telemetry_fields, "system_metrics_first_step": stored.get("system", -1) + 1}
        with rltelemetry.configure(**fields) as telemetry:
            _describe_run(telemetry, entry, arguments, parts, folder)
            emitter = Emitter(entry.name, telemetry, stored)
            for complaint in complaints:
                emitter.complain(complaint)
            if arguments.saved is not None:
                restore_curve(emitter, arguments.saved.path.parent, parts.state.progress.timesteps)
            _say_start(emitter, arguments, parts, folder)
            config = arguments.config
            title = f"{entry.title} on {config.environment.task}, seed {config.training_core.seed}"
            resumed = arguments.saved.path if arguments.saved else None
            with Artifacts(telemetry, emitter, config, title, folder, resumed) as artifacts:
                outcome = _train(parts, config, entry.name, folder, telemetry, emitter, interruption, artifacts.saved)
            _wait_for_server(telemetry, emitter, fields.get("startup_s", 0.0))
            if telemetry.run_url is not None:
                emitter.say(f"the run's page: {telemetry.run_url}")
    return outcome


def _wait_for_server(telemetry: Telemetry, emitter: Emitter, timeout_s: float) -> None:
    """Let a server that this run has started come up: its page would stay empty."""
    if timeout_s and telemetry.run_id is None:
        emitter.say(f"waiting for MLflow to start, {timeout_s:g} s at most")
        telemetry.wait_ready(timeout_s)


def _train(
    parts: Parts,
    config: RunConfig,
    name: str,
    folder: CheckpointFolder | None,
    telemetry: Telemetry | None,
    emitter: Emitter,
    interruption: Interruption,
    on_saved: Callable[[Path], None] | None = None,
) -> Outcome:
    ranks = parts.runtime.ranks

    def identify() -> dict[str, Any]:
        return {"run_id": telemetry.run_id, "client_uuid": telemetry.client_uuid} if telemetry else {}

    unhurried = interruption.unhurried
    keeper = Keeper(folder, name, config, identify, emitter.complain, ranks, PATIENCE_S, on_saved, unhurried)
    guard = DivergenceGuard(config.checkpointing.on_divergence, lambda: _go_back(keeper, parts.state), emitter.complain)
    survival = Survival(parts.state, keeper, guard, interruption, ranks)
    try:
        with interruption.patiently():
            outcome = train(parts.algorithm, parts.env, parts.evaluator, emitter, config.num_updates, survival)
    except SystemExit:
        keeper.rescue()
        _say_stop(emitter, keeper, folder)
        raise
    emitter.finished(
        duration_s=outcome.duration_s,
        steps_per_second=outcome.steps_per_second,
        mean_return=outcome.evaluation.mean_return if outcome.evaluation else None,
    )
    return outcome


def _go_back(keeper: Keeper, state: RunState) -> bool:
    """Put the learner of the last checkpoint back; False if there is none that can be read."""
    checkpoint = keeper.newest()
    if checkpoint is not None:
        state.restore_learner(checkpoint)
    return checkpoint is not None


def _describe_run(
    telemetry: Telemetry,
    entry: AlgorithmEntry[Any],
    arguments: Arguments[Any],
    parts: Parts,
    folder: CheckpointFolder | None,
) -> None:
    """Parameters are those that the run began with: MLflow takes no others. What has changed since is a tag."""
    config, saved, device = arguments.config, arguments.saved, str(parts.runtime.device)
    if saved is None or saved.checkpoint.telemetry["run_id"] is None:
        telemetry.log_params(config.model_dump(exclude={"logging"}))
        place = folder.path if folder else None
        telemetry.describe(describe(entry.name, entry.title, config, device, _num_parameters(parts), place))
    tags = {"algorithm": entry.name, "task": config.environment.task, "device": device}
    if saved is not None:
        changed = {
            f"resumed.{saved.update}.{change.key}": f"{change.old} -> {change.new}" for change in arguments.changes
        }
        tags |= {"resumed_at_update": str(saved.update)} | changed
    telemetry.set_tags(tags)


def _say_start(emitter: Emitter, arguments: Arguments[Any], parts: Parts, folder: CheckpointFolder | None) -> None:
    config = arguments.config
    if parts.origin:
        emitter.say(f"the run {parts.origin}")
    for change in arguments.changes:
        emitter.say(f"changed since then: {change}")
    emitter.started(
        task=config.environment.task,
        device=str(parts.runtime.device),
        num_parameters=_num_parameters(parts),
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        checkpoints=str(folder.path) if folder else None,
    )


def _num_parameters(parts: Parts) -> int:
    return sum(parameter.numel() for parameter in parts.algorithm.network.parameters())


def _say_stop(emitter: Emitter, keeper: Keeper, folder: CheckpointFolder | None) -> None:
    if folder is None or folder.newest_update is None:
        emitter.say("training stopped by a signal; nothing is saved")
        return
    folder.put_text(EMITTED, json.dumps(emitter.emitted))
    emitter.say(f"training stopped by a signal; go on with --resume {folder.path}", checkpoint=str(keeper.last_path))
