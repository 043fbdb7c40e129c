"""Both trainers against one real MLflow: what they report must be comparable, key by key."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from rltelemetry.handoff import CELL
from rltelemetry.testing import MlflowServer
from trainers.__main__ import COMMANDS
from trainers.emit import ACTOR_KEYS, EVALUATOR_KEYS, MISC_KEYS, TRAINER_KEYS

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

DEPTH = 3
SPO_KEYS = {
    *("temperature", "alpha", "kl_e_step", "kl_m_step", "resample_rate", "alive_fraction", "search_entropy"),
    *(f"ess_depth_{depth}" for depth in range(1, DEPTH + 1)),
    *("replay_size", "dual_lr", "actor_grad_norm", "critic_grad_norm", "dual_grad_norm"),
    *("mpo_temperature_loss", "mpo_alpha_loss", "mpo_total_loss"),
}
WITHOUT_MEANING = {"clip_fraction"}
"""Of the shared core, what SPO says as None: it clips no ratio of probabilities."""

SHARED_FLAGS = [
    *("--environment.task", "CartPole-v1", "--environment.max-episode-steps", "20", "--environment.num-envs", "4"),
    *("--training-core.horizon", "32", "--training-core.total-timesteps", "512", "--architecture.hidden-sizes", "16"),
    *("--evaluation.eval-interval", "2", "--evaluation.num-eval-episodes", "4", "--evaluation.num-envs", "4"),
]
FLAGS = {"ppo": [], "spo": ["--search.search-depth", str(DEPTH), "--spo.replay-size", "512", "--spo.batch-size", "64"]}


class Run(NamedTuple):
    """What a training has shown, by category, and what MLflow has of it."""

    shown: dict[str, set[str]]
    stored: dict[str, set[str]]
    params: dict[str, str]
    tags: dict[str, str]


@pytest.fixture(scope="module")
def runs(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    fallback = CELL.fallback
    yield {name: train(name, mlflow_server, tmp_path_factory.mktemp(name)) for name in FLAGS}
    CELL.active, CELL.fallback = None, fallback
    structlog.reset_defaults()


def train(name: str, server: MlflowServer, state: Path) -> Run:
    run_name = f"contract-{name}"
    console = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(console):
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setenv("RLTELEMETRY_EXIT_TIMEOUT_S", "60")
        patch.chdir(state)
        assert COMMANDS[name]([*SHARED_FLAGS, *FLAGS[name], "--run-name", run_name]) == 0, console.getvalue()
    (run,) = server.runs(filter_string=f"attributes.run_name = '{run_name}'")
    shown: dict[str, set[str]] = {}
    for line in console.getvalue().splitlines():
        event: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if "timesteps" in event and event["logger"] == f"trainers.{name}":
            shown.setdefault(event["category"], set()).update(event)
    stored: dict[str, set[str]] = {}
    for point in server.points(run.run_id):
        category, _, key = point.key.partition("/")
        stored.setdefault(category, set()).add(key)
    return Run(shown, stored, run.params, run.tags)


@pytest.mark.parametrize(
    ("category", "keys"), [("ACTOR", ACTOR_KEYS), ("EVALUATOR", EVALUATOR_KEYS), ("MISC", MISC_KEYS)]
)
def test_both_show_and_store_the_same_keys(runs: dict[str, Run], category: str, keys: tuple[str, ...]) -> None:
    ppo, spo = runs["ppo"], runs["spo"]
    assert spo.shown[category] == ppo.shown[category]
    assert spo.stored[category.lower()] == ppo.stored[category.lower()]
    assert set(keys) <= spo.shown[category]


def test_both_show_the_same_core_of_the_training_and_spo_its_own_behind_it(runs: dict[str, Run]) -> None:
    ppo, spo = runs["ppo"], runs["spo"]
    assert set(TRAINER_KEYS) <= ppo.shown["TRAINER"] & spo.shown["TRAINER"]
    assert spo.shown["TRAINER"] - ppo.shown["TRAINER"] == SPO_KEYS
    assert spo.stored["trainer"] == (set(TRAINER_KEYS) - WITHOUT_MEANING) | SPO_KEYS
    assert set(TRAINER_KEYS) <= ppo.stored["trainer"]


def test_categories_are_the_same(runs: dict[str, Run]) -> None:
    for run in runs.values():
        assert run.shown.keys() == {"TRAINER", "ACTOR", "EVALUATOR", "MISC"}
        assert run.stored.keys() - {"system"} == {"trainer", "actor", "evaluator", "misc"}


def test_run_page_names_the_algorithm_and_its_settings(runs: dict[str, Run]) -> None:
    assert (runs["ppo"].tags["algorithm"], runs["spo"].tags["algorithm"]) == ("ppo", "spo")
    assert runs["spo"].params["search.search_depth"] == str(DEPTH)
    assert runs["spo"].params["spo.epsilon"] == "0.5"
