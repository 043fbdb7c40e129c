from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from structlog.testing import capture_logs
from torch import Tensor, nn

from trainers.checkpoint import CheckpointFolder, Keeper, Progress, RunState
from trainers.config import CheckpointingConfig, EnvironmentConfig, EvaluationConfig, PpoConfig
from trainers.divergence import DivergenceGuard
from trainers.emit import Emitter
from trainers.envs import RenewableEnv, VectorEnv, make_vector_env
from trainers.errors import DivergenceError
from trainers.evaluation import ActDeterministic, Evaluator
from trainers.loop import Outcome, train
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, RolloutStorage
from trainers.runtime import prepare
from trainers.survival import Survival

NUM_ENVS, HORIZON = 4, 8

Events = list[MutableMapping[str, Any]]


class OneNumber(NamedTuple):
    actor_loss: float


class AlwaysLeft:
    """An algorithm that never learns, and notes what the loop asks of it."""

    def __init__(self, env: VectorEnv) -> None:
        self.network = nn.Identity()
        self.num_updates = 0
        self.progress: list[float] = []
        self._spec = env.spec

    def make_storage(self, num_envs: int) -> RolloutStorage:
        return RolloutStorage(self._spec, HORIZON, num_envs)

    def begin_rollout(self, storage: RolloutStorage) -> None:
        pass

    def act(self, storage: RolloutStorage, t: int, envs: slice) -> Tensor:
        storage.action[t, envs] = 0
        return storage.action[t, envs]

    def deterministic_policy(self) -> ActDeterministic:
        return lambda obs, _elapsed: np.zeros(len(obs), np.int64)

    def update(self, storage: RolloutStorage, progress: float) -> OneNumber:
        self.num_updates += 1
        self.progress.append(progress)
        return OneNumber(0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.num_updates = state["num_updates"]

    def load_model(self, state: dict[str, Any], /) -> None:
        pass


class Tracer:
    """Notes spans as they open and close, as paths."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.lines: list[str] = []
        self._path: list[str] = []

    @contextmanager
    def span(self, name: str, /, **inputs: Any) -> Iterator[None]:
        self._path.append(name)
        self.opened.append("/".join(self._path))
        yield
        self._path.pop()

    def show_progress(self, text: str) -> None:
        self.lines.append(text)

    def commit(self, timeout_s: float) -> bool:
        self.opened.append("commit")
        return True


def trained(num_updates: int, eval_interval: int = 2) -> tuple[AlwaysLeft, Outcome, Events, Tracer]:
    env, tracer = RenewableEnv(lambda _: make_vector_env("CartPole-v1", NUM_ENVS, seed=1)), Tracer()
    algorithm = AlwaysLeft(env.current)
    evaluation = EvaluationConfig(eval_interval=eval_interval, num_eval_episodes=2, num_envs=2)
    with capture_logs() as events:
        outcome = train(
            algorithm, env, Evaluator(evaluation, EnvironmentConfig()), Emitter("fake", tracer), num_updates
        )
    return algorithm, outcome, events, tracer


def of(events: Events, category: str) -> Events:
    return [event for event in events if event["category"] == category]


def test_every_update_emits_trainer_actor_and_misc() -> None:
    _, _, events, _ = trained(num_updates=3)
    for category in ("TRAINER", "ACTOR", "MISC"):
        assert [event["policy_version"] for event in of(events, category)] == [1, 2, 3]
    assert [event["update"] for event in of(events, "MISC")] == [1, 2, 3]


def test_events_of_an_update_share_their_stamp() -> None:
    _, _, events, _ = trained(num_updates=4)
    stamps = {(event["timesteps"], event["policy_version"]) for event in events}
    assert len(stamps) == 4


def test_timesteps_are_environment_steps_without_dummies() -> None:
    _, outcome, events, _ = trained(num_updates=8)
    timesteps = [event["timesteps"] for event in of(events, "TRAINER")]
    finished = of(events, "ACTOR")[-1]["episodes"]
    assert timesteps == sorted(timesteps)
    assert timesteps[0] == HORIZON * NUM_ENVS
    num_dummies = 8 * HORIZON * NUM_ENVS - outcome.timesteps
    assert outcome.timesteps == timesteps[-1]
    assert finished - NUM_ENVS <= num_dummies <= finished
    assert num_dummies > 0


def test_progress_runs_from_zero_to_before_the_end() -> None:
    algorithm, _, events, _ = trained(num_updates=4)
    assert algorithm.progress == [0.0, 0.25, 0.5, 0.75]
    assert [event["progress"] for event in of(events, "MISC")] == [0.25, 0.5, 0.75, 1.0]


def test_evaluation_keeps_its_cadence_and_ends_with_the_final_policy() -> None:
    _, outcome, events, _ = trained(num_updates=5, eval_interval=2)
    seen = [(event["policy_version"], event["phase"]) for event in of(events, "EVALUATOR")]
    assert seen == [(2, "training"), (4, "training"), (5, "final")]
    assert outcome.evaluation is not None
    assert outcome.evaluation.mean_return == of(events, "EVALUATOR")[-1]["mean_return"]


def test_last_evaluation_on_cadence_is_not_repeated() -> None:
    _, _, events, _ = trained(num_updates=4, eval_interval=2)
    seen = [(event["policy_version"], event["phase"]) for event in of(events, "EVALUATOR")]
    assert seen == [(2, "training"), (4, "final")]


def test_without_evaluation_there_is_none_at_the_end_either() -> None:
    _, outcome, events, tracer = trained(num_updates=2, eval_interval=0)
    assert of(events, "EVALUATOR") == []
    assert outcome.evaluation is None
    assert "update/evaluate" not in tracer.opened


def test_one_trace_per_update_with_its_parts_as_children() -> None:
    *_, tracer = trained(num_updates=2, eval_interval=2)
    first = ["update", "update/rollout", "update/optimise"]
    assert tracer.opened == [*first, *first, "update/evaluate"]


def test_durations_are_those_of_the_parts() -> None:
    _, outcome, events, _ = trained(num_updates=4, eval_interval=2)
    misc = of(events, "MISC")
    assert [event["evaluation_duration_ms"] is None for event in misc] == [True, False, True, False]
    assert of(events, "EVALUATOR")[0]["duration_ms"] == misc[1]["evaluation_duration_ms"]
    durations_ms = [event[key] or 0.0 for event in misc for key in event if key.endswith("duration_ms")]
    assert 0 < sum(durations_ms) <= 1000 * outcome.duration_s


def test_steps_per_second_leave_evaluation_out() -> None:
    _, outcome, events, _ = trained(num_updates=4, eval_interval=2)
    misc = of(events, "MISC")
    seconds = [(event["rollout_duration_ms"] + event["update_duration_ms"]) / 1000 for event in misc]
    steps = np.diff([0, *(event["timesteps"] for event in misc)])
    assert [event["steps_per_second"] for event in misc] == pytest.approx(list(steps / seconds))
    assert outcome.steps_per_second == pytest.approx(outcome.timesteps / sum(seconds))


# --- interruptions


class Diverging(AlwaysLeft):
    """Fails in some of its updates."""

    failing: frozenset[int] = frozenset()

    def update(self, storage: RolloutStorage, progress: float) -> OneNumber:
        self.progress.append(progress)
        self.truncated_TN = storage.truncated.clone()
        self.ended_TN = storage.truncated | storage.terminated | ~storage.valid
        if len(self.progress) in self.failing:
            raise DivergenceError("got nan.")
        self.num_updates += 1
        return OneNumber(0.5)


class Asked:
    """Somebody asks the run to stop in an update."""

    def __init__(self, algorithm: AlwaysLeft, in_update: int | None = None) -> None:
        self._algorithm, self._in_update = algorithm, in_update

    @property
    def exit_code(self) -> int | None:
        return 143 if self._in_update is not None and self._algorithm.num_updates >= self._in_update else None


class Interrupted:
    """A run with all that lets it survive."""

    def __init__(
        self, folder: Path, stop_in: int | None = None, failing: frozenset[int] = frozenset(), **settings: Any
    ) -> None:
        self.complaints: list[str] = []
        self.made_after: list[int] = []
        self.env, self.tracer = RenewableEnv(self._make_env), Tracer()
        self.algorithm = Diverging(self.env.current)
        self.algorithm.failing = failing
        self.folder = CheckpointFolder(folder, keep=100)
        config = PpoConfig(checkpointing=CheckpointingConfig(**settings))
        self.keeper = Keeper(self.folder, "fake", config, dict, pytest.fail)
        self.survival = Survival(
            RunState(self.algorithm, EpisodeStatistics(NUM_ENVS)),
            self.keeper,
            DivergenceGuard(config.checkpointing.on_divergence, lambda: False, self.complaints.append),
            Asked(self.algorithm, stop_in),
        )

    def _make_env(self, update: int) -> VectorEnv:
        self.made_after.append(update)
        return make_vector_env("CartPole-v1", NUM_ENVS, seed=1 + update)

    def train(self, num_updates: int, eval_interval: int = 0) -> Events:
        evaluation = EvaluationConfig(eval_interval=eval_interval, num_eval_episodes=2, num_envs=2)
        evaluator = Evaluator(evaluation, EnvironmentConfig())
        self.events: Events = []
        with capture_logs() as self.events:
            train(self.algorithm, self.env, evaluator, Emitter("fake", self.tracer), num_updates, self.survival)
        return self.events

    @property
    def saved(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("update-")) for path in self.folder.path.glob("*.pt"))


def test_run_is_saved_on_cadence_and_at_its_end_after_what_it_has_emitted(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, interval=2)
    run.train(5)
    assert run.saved == [2, 4, 5]
    second = [name for name in run.tracer.opened[4:] if name != "update/evaluate"][:4]
    assert second == ["update/rollout", "update/optimise", "update/checkpoint", "commit"]


def test_run_that_is_asked_to_stop_ends_with_the_update_saved(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, stop_in=3, interval=100)
    with pytest.raises(SystemExit) as caught:
        run.train(5)
    assert caught.value.code == 143
    assert run.saved == [3]
    assert [event["update"] for event in of(run.events, "MISC")] == [1, 2, 3]


class Clock:
    """Ticks when it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.001
        return self.now


@pytest.mark.parametrize(
    ("evaluation_s", "left_in", "kept"),
    [(0.1, 1, 2), (2.0, 1, 2), (0.1, 2, 2), (2.0, 2, 5)],
    ids=["first", "first, slow", "second", "second, slow"],
)
def test_state_before_an_evaluation_that_may_be_slow_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation_s: float, left_in: int, kept: int
) -> None:
    run, clock = Interrupted(tmp_path, interval=100), Clock()
    monkeypatch.setattr("trainers.stopwatch.time", clock)
    act, evaluations = run.algorithm.deterministic_policy(), []

    def deterministic_policy() -> ActDeterministic:
        evaluations.append(run.survival.state.progress.update)
        clock.now += evaluation_s
        if len(evaluations) == left_in:
            raise SystemExit(143)
        return act

    monkeypatch.setattr(run.algorithm, "deterministic_policy", deterministic_policy)
    with pytest.raises(SystemExit):
        run.train(9, eval_interval=3)
    run.keeper.rescue()
    assert run.saved == [kept]


def test_exact_run_that_is_asked_to_stop_saves_only_at_its_barriers(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, stop_in=3, interval=2, exact=True)
    with pytest.raises(SystemExit):
        run.train(5)
    assert run.saved == [2]


def test_barrier_truncates_what_is_open_and_starts_new_environments(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, interval=1, exact=True)
    run.train(3)
    assert run.made_after == [0, 1, 2], "nothing follows the last update"
    assert run.algorithm.ended_TN[-1].all()
    assert run.algorithm.truncated_TN[-1].any()
    assert not run.algorithm.truncated_TN[:-1].any()
    lengths = [event["episode_length_min"] for event in of(run.events, "ACTOR")]
    assert all(length is None or length >= 8 for length in lengths), "episodes that a barrier has cut are not counted"


def test_without_barriers_episodes_and_environments_go_on(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, interval=1)
    run.train(3)
    assert run.made_after == [0]
    assert not run.algorithm.truncated_TN.any()
    assert of(run.events, "ACTOR")[-1]["episodes"] > 0


def test_run_goes_on_behind_the_update_that_its_state_names(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, interval=100)
    run.survival.state.progress = Progress(update=3, timesteps=1000, training_s=1.0)
    run.train(5)
    assert [event["update"] for event in of(run.events, "MISC")] == [4, 5]
    assert of(run.events, "TRAINER")[0]["timesteps"] == 1000 + HORIZON * NUM_ENVS
    assert run.algorithm.progress == [0.6, 0.8]


def test_update_that_is_left_out_emits_nothing_and_its_episodes_end(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, failing=frozenset({2}), interval=1, on_divergence="skip")
    run.train(4)
    assert [event["update"] for event in of(run.events, "MISC")] == [1, 3, 4]
    assert run.complaints == ["got nan. The update is left out."]
    assert run.saved == [1, 2, 3, 4], "the run has come so far"
    assert run.made_after == [0, 2]
    steps = [event["timesteps"] for event in of(run.events, "TRAINER")]
    assert steps[1] - steps[0] >= 2 * HORIZON * NUM_ENVS - 2 * NUM_ENVS, "its environment steps were taken"


@pytest.mark.parametrize("how", [{}, {"stop_in": 2}, {"failing": frozenset({2})}])
def test_progress_line_is_taken_away_however_the_run_ends(tmp_path: Path, how: dict[str, Any]) -> None:
    run = Interrupted(tmp_path, interval=100, **how)
    with suppress(SystemExit, DivergenceError):
        run.train(3)
    assert "update 1/3" in run.tracer.lines[0]
    assert run.tracer.lines[-1] == ""


def test_divergence_ends_the_run_by_default_and_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    run = Interrupted(tmp_path, failing=frozenset({3}), interval=1)
    with pytest.raises(DivergenceError):
        run.train(4)
    assert run.saved == [1, 2]


def run_ppo(seed: int, **changes: dict[str, Any]) -> tuple[Outcome, Events]:
    fields = PpoConfig().model_dump()
    fields["training_core"]["seed"] = seed
    for section, values in changes.items():
        fields[section] |= values
    config = PpoConfig(**fields)
    runtime = prepare(config.hardware, seed)
    sizes = (config.environment.task, config.environment.num_envs, runtime.seeds.environment)
    env = RenewableEnv(lambda _: make_vector_env(*sizes))
    evaluator, ppo = Evaluator(config.evaluation, config.environment), Ppo(env.current.spec, config, runtime)
    with capture_logs() as events:
        outcome = train(ppo, env, evaluator, Emitter("ppo", Tracer()), config.num_updates)
    return outcome, events


def test_evaluation_does_not_change_the_training() -> None:
    short = {"total_timesteps": 4 * 1024}
    evaluations = [{"eval_interval": interval, "num_eval_episodes": 2, "num_envs": 2} for interval in (0, 1)]
    runs = [run_ppo(1, training_core=short, evaluation=evaluation)[1] for evaluation in evaluations]
    without, with_it = ([{**event} for event in of(events, "TRAINER")] for events in runs)
    assert len(without) == 4
    assert without == with_it


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_default_configuration_solves_cartpole(seed: int) -> None:
    outcome, events = run_ppo(seed)
    assert outcome.evaluation is not None
    assert outcome.evaluation.episodes == 20
    assert outcome.evaluation.mean_return is not None
    assert outcome.evaluation.mean_return >= 475
    solved_at = next(event["timesteps"] for event in of(events, "EVALUATOR") if event["mean_return"] >= 475)
    assert solved_at <= 150_000
