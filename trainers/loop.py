"""The training loop: collect -> update -> emit -> evaluate -> checkpoint. It knows no algorithm."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

from torch import nn

from trainers.checkpoint import Stateful
from trainers.emit import Emitter, Stamp
from trainers.envs import RenewableEnv
from trainers.errors import DivergenceError
from trainers.evaluation import ActDeterministic, Evaluator
from trainers.progress import ProgressLine
from trainers.ranks import Ranks
from trainers.rollout import EpisodeStatistics, EpisodeSummary, Policy, RolloutStorage, collect
from trainers.survival import Survival, unguarded

__all__ = ["Algorithm", "Metrics", "Outcome", "train"]


class Metrics(Protocol):
    """The numbers of one update, already on the host: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


class Algorithm(Policy, Stateful, Protocol):
    """What the loop asks of an algorithm, beside acting and being saved."""

    @property
    def network(self) -> nn.Module:
        """All that is learnt."""

    @property
    def num_updates(self) -> int:
        """Updates that the policy has had: its version."""

    def load_model(self, state: dict[str, Any], /) -> None:
        """Take what acting needs from a `state_dict`: networks and normalisers, no optimisers, generators, counts."""

    def make_storage(self, num_envs: int) -> RolloutStorage:
        """Allocate a rollout."""

    def deterministic_policy(self) -> ActDeterministic:
        """The best actions known, for one evaluation: (observations, steps since each episode began) -> actions.

        Draws none of the training's random numbers; those of its own are the same for each evaluation.
        """

    def greedy_policy(self) -> nn.Module:
        """Return a module from observations [B, ...] to the best actions known without search, for export."""

    def update(self, storage: RolloutStorage, progress: float) -> Metrics:
        """Learn from one rollout; `progress`, 0 to 1, is how much of the run is over.

        Raises:
            DivergenceError: a number was not finite; no step was taken with it.
        """


class Outcome(NamedTuple):
    """A finished training; steps_per_second leaves evaluation out."""

    timesteps: int
    duration_s: float
    steps_per_second: float
    evaluation: EpisodeSummary | None


def train(
    algorithm: Algorithm,
    env: RenewableEnv,
    evaluator: Evaluator,
    emitter: Emitter,
    num_updates: int,
    survival: Survival | None = None,
) -> Outcome:
    """Train for `num_updates` updates in all; if there are evaluations, the last policy gets one, too.

    Raises:
        DivergenceError: a number was not finite, and the guard does not put up with it.
        SystemExit: the run was asked to stop; it is saved.
    """
    survival = survival or unguarded(algorithm, env.current.num_envs)
    state, keeper, ranks = survival.state, survival.keeper, survival.ranks
    episodes, progress = state.episodes, state.progress
    storage = algorithm.make_storage(env.current.num_envs)
    watch = _Watch()
    line = ProgressLine(emitter.show_progress, num_updates, progress.update, progress.timesteps)
    evaluation: EpisodeSummary | None = None

    def renew_environments(update: int) -> None:
        env.renew(update)
        storage.start_anew()
        episodes.drop_unfinished()

    for update in range(progress.update + 1, num_updates + 1):
        is_last, is_barrier = update == num_updates, keeper.is_barrier(update)
        watch.begin_update()
        with emitter.span("update", update=update):
            with survival.guard.around_update(partial(renew_environments, update)):
                with emitter.span("rollout"), watch.time("rollout"):
                    num_steps = _together(ranks, partial(collect, algorithm, env.current, storage, episodes))
                progress.timesteps += num_steps
                if is_barrier:
                    storage.cut()
                with emitter.span("optimise"), watch.time("update"):
                    metrics = algorithm.update(storage, progress=(update - 1) / num_updates)

                stamp = Stamp(progress.timesteps, algorithm.num_updates)
                emitter.trainer(stamp, metrics._asdict())
                emitter.actor(stamp, recent := _summary(ranks, episodes))
                if evaluator.is_due(update) or (is_last and evaluator.is_enabled):
                    with emitter.span("evaluate"), watch.time("evaluation"):
                        evaluation = evaluator.evaluate(algorithm.deterministic_policy())
                    phase = "final" if is_last else "training"
                    emitter.evaluator(stamp, phase, evaluation, watch.milliseconds("evaluation"))
                emitter.misc(stamp, update=update, progress=update / num_updates, **watch.throughput(num_steps))
                line.advance(update, progress.timesteps, recent.mean_return)

            progress.update = update
            progress.training_s += watch.training_s
            exit_code = max(ranks.gather(survival.stop.exit_code or 0))
            is_stopping = exit_code > 0
            if keeper.is_due(update, is_last=is_last, is_stopping=is_stopping):
                with emitter.span("checkpoint"):
                    emitter.commit()  # a resumed run emits nothing of what came before its checkpoint
                    keeper.save(state)
            else:
                keeper.remember(state, watch.training_s)
        if is_stopping:
            raise SystemExit(exit_code)
        if is_barrier and not is_last:
            renew_environments(update)
            evaluator.renew(update)
    line.close()
    return Outcome(progress.timesteps, watch.elapsed_s, progress.timesteps / progress.training_s, evaluation)


def _together(ranks: Ranks, collect: Callable[[], int]) -> int:
    """Collect on all ranks; returns the steps of all.

    Raises:
        DivergenceError: in all of them, if one diverges: the others would wait for it in the update.
    """
    failure, num_steps = None, 0
    try:
        num_steps = collect()
    except DivergenceError as error:
        failure = error
    reports = ranks.gather((num_steps, str(failure or "")))
    told = next((text for _, text in reports if text), None)
    if told is not None:
        raise failure or DivergenceError(told)
    return sum(steps for steps, _ in reports)


def _summary(ranks: Ranks, episodes: EpisodeStatistics) -> EpisodeSummary:
    """Sum up the last episodes of all ranks."""
    if ranks.size == 1:
        return episodes.summary()
    return EpisodeStatistics.joined(ranks.gather(episodes.state_dict())).summary()


class _Watch:
    """Times the parts of each update, and the whole."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start

    @property
    def training_s(self) -> float:
        """Of this update; evaluation does not slow training down, and is not counted."""
        return self._seconds.get("rollout", 0.0) + self._seconds.get("update", 0.0)

    def begin_update(self) -> None:
        self._seconds = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = time.perf_counter() - start

    def milliseconds(self, part: str) -> float | None:
        return 1000 * self._seconds[part] if part in self._seconds else None

    def throughput(self, num_steps: int) -> dict[str, float | None]:
        """What MISC says of one update."""
        durations = {f"{part}_duration_ms": self.milliseconds(part) for part in ("rollout", "update", "evaluation")}
        return {"steps_per_second": num_steps / self.training_s, **durations}
