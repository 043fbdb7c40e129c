"""The only place where trainers log metrics and open spans; the names are data here, the same for every algorithm.

Per update: TRAINER (optimisation), ACTOR (the last training episodes), MISC (throughput); on cadence EVALUATOR
(deterministic episodes). All four carry timesteps and policy_version, so that every curve has the same x axis. A value
that is not known yet is None: a `-` on the console, and no point.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import structlog

from trainers.rollout import EpisodeSummary

__all__ = ["ACTOR_KEYS", "EVALUATOR_KEYS", "MISC_KEYS", "STAMP_KEYS", "TRAINER_KEYS", "Emitter", "Stamp", "Tracer"]

STAMP_KEYS: Final = ("timesteps", "policy_version")

TRAINER_KEYS: Final = (
    "actor_loss",
    "critic_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "explained_variance",
    "global_grad_norm",
    "learning_rate",
    "critic_lr",
    "num_gradient_steps",
)
"""The core that every algorithm emits; an algorithm may add keys of its own behind it."""

EPISODE_KEYS: Final = (
    "episodes",
    "mean_return",
    "max_return",
    "min_return",
    "episode_length_mean",
    "episode_length_max",
    "episode_length_min",
)

ACTOR_KEYS: Final = EPISODE_KEYS

EVALUATOR_KEYS: Final = ("phase", *EPISODE_KEYS, "duration_ms")

MISC_KEYS: Final = (
    "update",
    "progress",
    "steps_per_second",
    "rollout_duration_ms",
    "update_duration_ms",
    "evaluation_duration_ms",
)

SHARED_NAMES: Final = {"actor_lr": "learning_rate"}
"""Names of the algorithms' own metrics for what the schema calls otherwise."""


class Stamp(NamedTuple):
    """Where in the training an event belongs: environment steps so far, and updates that the policy has had."""

    timesteps: int
    policy_version: int


class Tracer(Protocol):
    """What is asked of the telemetry: spans."""

    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[Any]:
        """Make a span current for a `with` block."""


class Emitter:
    """Logs one algorithm's events.

    Args:
        algorithm: names the logger, `trainers.<algorithm>`, for filters.
        tracer: opens the spans.
    """

    def __init__(self, algorithm: str, tracer: Tracer) -> None:
        self.span = tracer.span
        self._log = structlog.get_logger(f"trainers.{algorithm}")

    def started(self, **facts: Any) -> None:
        """Say what is about to be trained; no metrics."""
        self._log.info("training starts", category="MISC", **facts)

    def trainer(self, stamp: Stamp, metrics: Mapping[str, Any]) -> None:
        """Emit the optimisation of one update."""
        named = {SHARED_NAMES.get(key, key): value for key, value in metrics.items()}
        fields = dict.fromkeys(TRAINER_KEYS) | named
        self._log.info("train", category="TRAINER", **stamp._asdict(), **fields)

    def actor(self, stamp: Stamp, episodes: EpisodeSummary) -> None:
        """Emit the last training episodes."""
        self._log.info("rollout", category="ACTOR", **stamp._asdict(), **_in_order(ACTOR_KEYS, episodes._asdict()))

    def evaluator(self, stamp: Stamp, phase: str, episodes: EpisodeSummary, duration_ms: float | None) -> None:
        """Emit one evaluation; `phase` is `training` or, for the policy that training has led to, `final`."""
        fields = {"phase": phase, **episodes._asdict(), "duration_ms": duration_ms}
        self._log.info("evaluation", category="EVALUATOR", **stamp._asdict(), **_in_order(EVALUATOR_KEYS, fields))

    def misc(self, stamp: Stamp, **fields: float | None) -> None:
        """Emit throughput: the fields are MISC_KEYS."""
        self._log.info("throughput", category="MISC", **stamp._asdict(), **_in_order(MISC_KEYS, fields))

    def finished(self, **facts: Any) -> None:
        """Say how the training went; no metrics."""
        self._log.info("training done", category="MISC", **facts)


def _in_order(keys: tuple[str, ...], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Exactly these keys, in this order."""
    assert fields.keys() == set(keys), f"{fields.keys() ^ set(keys)} differ from the schema"
    return {key: fields[key] for key in keys}
