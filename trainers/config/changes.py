"""What may change between a checkpoint and the run that goes on from it.

What decides what the numbers mean (the task, the networks, the algorithm) may not: the run would be neither the old
one nor a new one. Where it runs, how it is watched and how long, may.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from trainers.config.run import RunConfig

__all__ = ["Change", "changes", "is_free"]

FREE_SECTIONS: Final = frozenset({"evaluation", "hardware", "logging", "checkpointing"})

FREE_SETTINGS: Final = frozenset(
    {
        "environment.num_threads",
        "environment.num_groups",
        "training_core.total_timesteps",
        "optimization.actor_lr",
        "optimization.critic_lr",
        "optimization.dual_lr",
        "optimization.anneal_lr",
        "optimization.max_grad_norm",
    }
)
"""A longer run stretches the annealing of the rates, too."""


class Change(NamedTuple):
    """A setting that has another value."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def changes(old: RunConfig, new: RunConfig) -> list[Change]:
    """Return what differs, setting by setting."""
    return list(_differences(old.model_dump(), new.model_dump(), ""))


def is_free(change: Change) -> bool:
    """Return whether a run may go on with this change."""
    return change.key in FREE_SETTINGS or change.key.partition(".")[0] in FREE_SECTIONS


def _differences(old: Any, new: Any, key: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and key.count(".") < 1:
        for name in {**old, **new}:
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield Change(key, old, new)
