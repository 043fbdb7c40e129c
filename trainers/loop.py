"""The training loop: collect -> update -> emit -> evaluate -> checkpoint. It knows no algorithm."""

import math
from collections.abc import Callable
from contextlib import closing
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
from trainers.stopwatch import Stopwatch
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
    training = _Training(algorithm, env, evaluator, emitter, num_updates, survival)
    with closing(training):
        for update in range(survival.state.progress.update + 1, num_updates + 1):
            with emitter.span("update", update=update):
                with survival.guard.around_update(partial(training.renew_env, update)):
                    training.learn(update)
                exit_code = training.settle(update)
            if exit_code:
                raise SystemExit(exit_code)
            training.pass_barrier(update)
    return training.outcome()


class _Training:
    """What one run consists of, and the steps of an update; arguments as of `train`."""

    def __init__(
        self,
        algorithm: Algorithm,
        env: RenewableEnv,
        evaluator: Evaluator,
        emitter: Emitter,
        num_updates: int,
        survival: Survival,
    ) -> None:
        self._algorithm, self._env, self._evaluator, self._emitter = algorithm, env, evaluator, emitter
        self._num_updates = num_updates
        self._survival, self._keeper, self._ranks = survival, survival.keeper, survival.ranks
        self._progress, self._episodes = survival.state.progress, survival.state.episodes
        self._storage = algorithm.make_storage(env.current.num_envs)
        self._watch = Stopwatch()
        done = self._progress
        self._line = ProgressLine(emitter.show_progress, num_updates, done.update, done.timesteps)
        self._evaluation: EpisodeSummary | None = None
        self._evaluation_s = math.inf  # until one has been seen

    def learn(self, update: int) -> None:
        """Collect, update, emit, evaluate."""
        emitter, watch = self._emitter, self._watch
        watch.begin_update()
        with emitter.span("rollout"), watch.time("rollout"):
            num_steps = _together(self._ranks, self._collect)
        self._progress.timesteps += num_steps
        if self._keeper.is_barrier(update):
            self._storage.cut()
        with emitter.span("optimise"), watch.time("update"):
            metrics = self._algorithm.update(self._storage, progress=(update - 1) / self._num_updates)
        stamp = Stamp(self._progress.timesteps, self._algorithm.num_updates)
        emitter.trainer(stamp, metrics._asdict())
        emitter.actor(stamp, recent := _summary(self._ranks, self._episodes))
        self._evaluate(update, stamp)
        emitter.misc(stamp, update=update, progress=update / self._num_updates, **watch.throughput(num_steps))
        self._line.advance(update, self._progress.timesteps, recent.mean_return)

    def settle(self, update: int) -> int:
        """Count the update, and save the run if it is time to; returns the exit code if the run is to stop, else 0."""
        self._progress.update = update
        self._progress.training_s += self._watch.training_s
        exit_code: int = max(self._ranks.gather(self._survival.stop.exit_code or 0))
        if self._keeper.is_due(update, is_last=update == self._num_updates, is_stopping=exit_code > 0):
            with self._emitter.span("checkpoint"), self._keeper.unhurried():
                self._emitter.commit()  # a resumed run emits nothing of what came before its checkpoint
                self._keeper.save(self._survival.state)
        else:
            evaluation_s = self._evaluation_s if self._evaluates(update + 1) else 0.0
            self._keeper.remember(self._survival.state, self._watch.training_s + evaluation_s)
        return exit_code

    def pass_barrier(self, update: int) -> None:
        """Start all environments anew where an interrupted run would."""
        if self._keeper.is_barrier(update) and update < self._num_updates:
            self.renew_env(update)
            self._evaluator.renew(update)

    def renew_env(self, update: int) -> None:
        """Go on with new environments, in new episodes."""
        self._env.renew(update)
        self._storage.start_anew()
        self._episodes.drop_unfinished()

    def outcome(self) -> Outcome:
        """Sum the finished run up."""
        timesteps, training_s = self._progress.timesteps, self._progress.training_s
        return Outcome(timesteps, self._watch.elapsed_s, timesteps / training_s, self._evaluation)

    def close(self) -> None:
        """Take the progress line away."""
        self._line.close()

    def _collect(self) -> int:
        return collect(self._algorithm, self._env.current, self._storage, self._episodes)

    def _evaluate(self, update: int, stamp: Stamp) -> None:
        """On cadence, and the policy that training ends with."""
        if self._evaluates(update):
            with self._emitter.span("evaluate"), self._watch.time("evaluation"):
                self._evaluation = self._evaluator.evaluate(self._algorithm.deterministic_policy())
            took_ms = self._watch.milliseconds("evaluation") or 0.0
            self._evaluation_s = took_ms / 1000
            phase = "final" if update == self._num_updates else "training"
            self._emitter.evaluator(stamp, phase, self._evaluation, took_ms)

    def _evaluates(self, update: int) -> bool:
        is_last = update == self._num_updates
        return self._evaluator.is_due(update) or (is_last and self._evaluator.is_enabled)


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
