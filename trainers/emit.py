"""The only place where trainers log metrics and open spans; the names are data here, the same for every algorithm.

Per update: TRAINER (optimisation), ACTOR (the last training episodes), MISC (throughput); on cadence EVALUATOR
(deterministic episodes). All four carry timesteps and policy_version, so that every curve has the same x axis. A value
that is not known yet is None: a `-` on the console, and no point.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple, Protocol

import structlog

from trainers.curve import ReturnCurve
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

ACTOR_KEYS: Final = EpisodeSummary._fields

EVALUATOR_KEYS: Final = ("phase", *EpisodeSummary._fields, "duration_ms")

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

NOTHING_TRAINED: Final[dict[str, Any]] = dict.fromkeys(TRAINER_KEYS)
"""The core of the keys in their order, for what an algorithm does not have."""

COMMIT_S: Final = 2.0
"""Longest wait for the telemetry's disk at a checkpoint."""


class Stamp(NamedTuple):
    """Where in the training an event belongs: environment steps so far, and updates that the policy has had."""

    timesteps: int
    policy_version: int


class Tracer(Protocol):
    """What is asked of the telemetry, beside taking log calls."""

    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[Any]:
        """Make a span current for a `with` block."""

    def commit(self, timeout_s: float) -> bool:
        """Wait until what was logged is safe from the end of this process; False on time-out."""

    def show_progress(self, text: str) -> None:
        """Keep one line below all others, on a terminal; an empty text takes it away."""


class Emitter:
    """Logs one algorithm's events.

    A resumed run does some updates again whose metrics its MLflow run has already: they are left out, so that no step
    is there twice.

    Args:
        algorithm: names the logger, `trainers.<algorithm>`, for filters.
        tracer: opens the spans.
        stored: the last timesteps of each category, in lower case, that the MLflow run has.
        log: takes the events; structlog's logger for this name if not given.

    Attributes:
        emitted: the last timesteps of each category that this process, or one before it, has emitted.
        curve: the returns among it.
    """

    def __init__(
        self, algorithm: str, tracer: Tracer, stored: Mapping[str, int] | None = None, log: Any = None
    ) -> None:
        self.span, self.show_progress = tracer.span, tracer.show_progress
        self._tracer = tracer
        self.emitted = dict(stored or {})
        self.curve = ReturnCurve()
        self._log = log or structlog.get_logger(f"trainers.{algorithm}")

    @classmethod
    def silent(cls) -> "Emitter":
        """Return one that says nothing, for all ranks but the first."""
        return cls("", Silence(), log=Silence())

    def commit(self) -> None:
        """Make what was emitted safe from kill -9: a checkpoint says that it has been emitted."""
        self._tracer.commit(COMMIT_S)

    def say(self, text: str, **facts: Any) -> None:
        """Say something; no metrics."""
        self._log.info(text, category="MISC", **facts)

    def complain(self, text: str) -> None:
        """Warn of something that the run survives."""
        self._log.warning(text, category="MISC")

    def started(self, **facts: Any) -> None:
        """Say what is about to be trained; no metrics."""
        self._log.info("training starts", category="MISC", **facts)

    def trainer(self, stamp: Stamp, metrics: Mapping[str, Any]) -> None:
        """Emit the optimisation of one update."""
        named = {SHARED_NAMES.get(key, key): value for key, value in metrics.items()}
        self._emit("train", "TRAINER", stamp, NOTHING_TRAINED | named)

    def actor(self, stamp: Stamp, episodes: EpisodeSummary) -> None:
        """Emit the last training episodes."""
        self.curve.add_training(stamp.timesteps, episodes)
        self._emit("rollout", "ACTOR", stamp, episodes._asdict())

    def evaluator(self, stamp: Stamp, phase: str, episodes: EpisodeSummary, duration_ms: float | None) -> None:
        """Emit one evaluation; `phase` is `training` or, for the policy that training has led to, `final`."""
        self.curve.add_evaluation(stamp.timesteps, episodes)
        fields = {"phase": phase, **episodes._asdict(), "duration_ms": duration_ms}
        self._emit("evaluation", "EVALUATOR", stamp, fields)

    def misc(self, stamp: Stamp, **fields: float | None) -> None:
        """Emit throughput: the fields are MISC_KEYS."""
        assert fields.keys() == set(MISC_KEYS), f"{fields.keys() ^ set(MISC_KEYS)} differ from the schema"
        self._emit("throughput", "MISC", stamp, {key: fields[key] for key in MISC_KEYS})

    def finished(self, **facts: Any) -> None:
        """Say how the training went; no metrics."""
        self._log.info("training done", category="MISC", **facts)

    def _emit(self, event: str, category: str, stamp: Stamp, fields: Mapping[str, Any]) -> None:
        if stamp.timesteps > self.emitted.get(category.lower(), -1):
            self.emitted[category.lower()] = stamp.timesteps
            self._log.info(event, category=category, **stamp._asdict(), **fields)


class Silence:
    """Telemetry and logger of the ranks that do not talk."""

    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[None]:
        """Open nothing."""
        return nullcontext()

    def commit(self, timeout_s: float) -> bool:
        """There is nothing to lose."""
        return True

    def show_progress(self, text: str) -> None:
        """Show nothing."""

    def info(self, event: str, /, **fields: Any) -> None:
        """Log nothing."""

    warning = info
