"""What the run's page in MLflow says on top: what is trained, with which settings, and how to go on."""

import shlex
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from trainers.config import RunConfig, changes

__all__ = ["describe"]

MAX_CHANGES: Final = 20
"""Settings that are listed; the page has all of them as parameters."""

NOT_TOLD: Final = frozenset({"environment.task", "training_core.seed", "training_core.total_timesteps"})
"""Settings that stand in the first lines."""

UNTOLD_SECTIONS: Final = frozenset({"logging", "checkpointing", "hardware"})
"""Sections that do not say what is learnt."""


def describe(name: str, title: str, config: RunConfig, device: str, num_parameters: int, folder: Path | None) -> str:
    """Return the description of a run as markdown.

    Args:
        name: the command.
        title: the algorithm.
        config: the settings.
        device: where it trains.
        num_parameters: of the networks.
        folder: where its checkpoints lie; None if it saves none.
    """
    core = config.training_core
    parts = [
        f"**{title}** on **{config.environment.task}**, seed {core.seed}: {core.total_timesteps:,} timesteps in "
        f"{config.num_updates:,} updates of {config.environment.num_envs} environments x {core.horizon} steps.",
        _table(_highlights(config, device, num_parameters)),
        _differences(config),
        _commands(name, folder),
    ]
    return "\n\n".join(part for part in parts if part)


def _highlights(config: RunConfig, device: str, num_parameters: int) -> dict[str, str]:
    core, rates, network = config.training_core, config.optimization, config.architecture
    sizes = " x ".join(map(str, network.hidden_sizes))
    return {
        "discount": f"gamma {core.gamma:g}, GAE lambda {core.gae_lambda:g}",
        "learning rates": f"actor {rates.actor_lr:g}, critic {rates.critic_lr:g}"
        + (", annealed to 0" if rates.anneal_lr else ""),
        "networks": f"{sizes}, {network.activation}, {num_parameters:,} parameters",
        "evaluation": f"{config.evaluation.num_eval_episodes} deterministic episodes every "
        f"{config.evaluation.eval_interval} updates",
        "device": f"{device} of {socket.gethostname()}",
    }


def _differences(config: RunConfig) -> str:
    found = [
        change
        for change in changes(type(config)(), config)
        if change.key not in NOT_TOLD and change.key.partition(".")[0] not in UNTOLD_SECTIONS
    ]
    if not found:
        return "All other settings are the defaults."
    lines = [f"- `{change.key}`: {_code(change.new)} (default {_code(change.old)})" for change in found[:MAX_CHANGES]]
    more = [f"- and {len(found) - MAX_CHANGES} more: see the parameters"] if len(found) > MAX_CHANGES else []
    return "\n".join(["Other than the defaults:", "", *lines, *more])


def _commands(name: str, folder: Path | None) -> str:
    if folder is None:
        return "It saves no checkpoints: it cannot go on after an interruption."
    place = shlex.quote(str(folder.absolute()))
    return "\n".join(
        [
            f"Go on after an interruption, or look at the policy, on {socket.gethostname()}:",
            "```",
            f"{name} --resume {place}",
            f"{name} eval --checkpoint {place} --video run.mp4",
            "```",
        ]
    )


def _table(entries: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in entries.items())])


def _code(value: Any) -> str:
    texts: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return f"`{', '.join(map(str, texts))}`"
