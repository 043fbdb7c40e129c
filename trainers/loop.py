"""The training loop: collect -> update -> emit -> evaluate. It knows no algorithm."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray
from torch import nn

from trainers.emit import Emitter, Stamp
from trainers.envs import VectorEnv
from trainers.evaluation import Evaluator
from trainers.rollout import EpisodeStatistics, EpisodeSummary, Policy, RolloutStorage, collect

__all__ = ["Algorithm", "Metrics", "Outcome", "train"]


class Metrics(Protocol):
    """The numbers of one update, already on the host: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


class Algorithm(Policy, Protocol):
    """What the loop asks of an algorithm, beside acting."""

    @property
    def network(self) -> nn.Module:
        """All that is learnt."""

    @property
    def num_updates(self) -> int:
        """Updates that the policy has had: its version."""

    def make_storage(self, num_envs: int) -> RolloutStorage:
        """Allocate a rollout."""

    def act_deterministic(self, obs_NO: NDArray[Any], /) -> NDArray[Any]:
        """Choose the best actions known; draw no random numbers."""

    def update(self, storage: RolloutStorage, progress: float) -> Metrics:
        """Learn from one rollout; `progress`, 0 to 1, is how much of the run is over."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: tensors, numbers, texts, and lists and dicts of these."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from a `state_dict` of a run with the same configuration."""


class Outcome(NamedTuple):
    """A finished training; steps_per_second leaves evaluation out."""

    timesteps: int
    duration_s: float
    steps_per_second: float
    evaluation: EpisodeSummary | None


def train(algorithm: Algorithm, env: VectorEnv, evaluator: Evaluator, emitter: Emitter, num_updates: int) -> Outcome:
    """Train for `num_updates` updates; if there are evaluations, the last policy gets one, too."""
    storage = algorithm.make_storage(env.num_envs)
    statistics = EpisodeStatistics(env.num_envs)
    watch = _Watch()
    timesteps = 0
    evaluation: EpisodeSummary | None = None
    for update in range(1, num_updates + 1):
        watch.begin_update()
        with emitter.span("update", update=update):
            with emitter.span("rollout"), watch.time("rollout"):
                num_steps = collect(algorithm, env, storage, statistics)
            with emitter.span("optimise"), watch.time("update"):
                metrics = algorithm.update(storage, progress=(update - 1) / num_updates)

            timesteps += num_steps
            stamp = Stamp(timesteps, algorithm.num_updates)
            emitter.trainer(stamp, metrics._asdict())
            emitter.actor(stamp, statistics.summary())

            is_last = update == num_updates
            if evaluator.is_due(update) or (is_last and evaluator.is_enabled):
                with emitter.span("evaluate"), watch.time("evaluation"):
                    evaluation = evaluator.evaluate(algorithm.act_deterministic)
                phase = "final" if is_last else "training"
                emitter.evaluator(stamp, phase, evaluation, watch.milliseconds("evaluation"))

            emitter.misc(stamp, update=update, progress=update / num_updates, **watch.throughput(num_steps))
    return Outcome(timesteps, watch.elapsed_s, timesteps / watch.training_s, evaluation)


class _Watch:
    """Times the parts of each update, and the whole."""

    def __init__(self) -> None:
        self.training_s = 0.0
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start

    def begin_update(self) -> None:
        self._seconds = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[part] = time.perf_counter() - start

    def milliseconds(self, part: str) -> float | None:
        return 1000 * self._seconds[part] if part in self._seconds else None

    def throughput(self, num_steps: int) -> dict[str, float | None]:
        """What MISC says of one update; evaluation does not slow training down, and is not counted."""
        training_s = self._seconds["rollout"] + self._seconds["update"]
        self.training_s += training_s
        durations = {f"{part}_duration_ms": self.milliseconds(part) for part in ("rollout", "update", "evaluation")}
        return {"steps_per_second": num_steps / training_s, **durations}
