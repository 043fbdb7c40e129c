"""Two processes that train together, against one that does it alone."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainers.checkpoint import RunState, decode, encode
from trainers.config import PpoConfig, SpoConfig
from trainers.envs import make_vector_env
from trainers.errors import ConfigError, DivergenceError
from trainers.normalize import RunningMoments, share_moments
from trainers.optim import FlatAdam
from trainers.ppo import Ppo
from trainers.ppo.losses import normalize
from trainers.ranks import ALONE, Ranks, join_ranks, local_rank
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds
from trainers.spo import Spo

pytestmark = pytest.mark.timeout(300)

ROWS = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(7))


def half(rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """This rank's share of the rows."""
    return rows.tensor_split(ranks.size, dim=1)[ranks.rank]


def network() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 2)


def optimised(ranks: Ranks, poisoned_rank: int | None = None) -> list[float]:
    module = network()
    mean_over_ranks = ranks.mean if ranks.size > 1 else None
    optimizer = FlatAdam([module.parameters()], [0.1], mean_over_ranks=mean_over_ranks)
    for batch in half(ROWS, ranks):
        loss = module(batch).square().mean()
        optimizer.minimize(loss * torch.nan if ranks.rank == poisoned_rank else loss)
    return numbers(module)


def numbers(module: nn.Module) -> list[float]:
    return [x for parameter in module.parameters() for x in parameter.detach().flatten().tolist()]


def poisoned(ranks: Ranks) -> list[float]:
    return optimised(ranks, poisoned_rank=ranks.size - 1)


def moments(ranks: Ranks) -> list[float]:
    statistics = RunningMoments((4,))
    share_moments(statistics, ranks.sum)
    for rows in half(ROWS, ranks):
        statistics.observe(rows)
    return [float(statistics.count), *statistics.mean.tolist(), *statistics.variance.tolist()]


def normalised(ranks: Ranks) -> list[float]:
    """The advantages of all, each rank having seen its own only."""
    advantage = half(ROWS, ranks)[0, :, 0]
    mine = normalize(advantage, None, ranks.mean if ranks.size > 1 else None)
    return [x for share in ranks.gather(mine.tolist()) for x in share]


def exchanged(ranks: Ranks) -> Any:
    number = torch.tensor([float(ranks.rank), 1.0])
    own = {"rank": ranks.rank}
    return ranks.mean(number).tolist(), ranks.sum(number).tolist(), ranks.gather(own), ranks.from_first(own)


def diverged(ranks: Ranks) -> str:
    from trainers.loop import _together

    def collect() -> int:
        if ranks.rank == ranks.size - 1:
            raise DivergenceError("the last one got nan")
        return 5

    with pytest.raises(DivergenceError) as caught:
        _together(ranks, collect)
    return str(caught.value)


def summed_up(ranks: Ranks) -> Any:
    from trainers.loop import _summary, _together

    episodes = EpisodeStatistics(1)
    episodes.add(np.full((2, 1), 1.0 + ranks.rank), np.ones((2, 1), bool), np.ones((2, 1), bool))
    summary = _summary(ranks, episodes)
    return _together(ranks, lambda: 5), summary.episodes, summary.mean_return, summary.min_return, summary.max_return


def learner(ranks: Ranks) -> Ppo:
    size = {"horizon": 16, "num_epochs": 2, "total_timesteps": 10_000, "target_kl": 0.01}
    environment = {"num_envs": 8 // ranks.size, "normalize_obs": True, "normalize_reward": True}
    config = PpoConfig.model_validate({"training_core": size, "environment": environment})
    spec = make_vector_env("CartPole-v1", 1, 0).spec
    return Ppo(spec, config, Runtime(torch.device("cpu"), spawn_seeds(1, ranks.rank), ranks))


def trained(ranks: Ranks) -> Any:
    """Two updates of PPO, normalisers and all: weights, metrics, and what each rank did."""
    ppo = learner(ranks)
    env = make_vector_env("CartPole-v1", 8 // ranks.size, 1 + ranks.rank * 8 // ranks.size)
    storage = ppo.make_storage(env.num_envs)
    for progress in (0.0, 0.5):
        collect(ppo, env, storage, EpisodeStatistics(env.num_envs))
        metrics = ppo.update(storage, progress)
    weights = torch.cat([value.double().flatten() for value in ppo.network.state_dict().values()])
    return weights.tolist(), [*metrics], storage.action.tolist()


def searcher(ranks: Ranks) -> Spo:
    config = SpoConfig.model_validate(
        {
            "training_core": {"horizon": 8, "total_timesteps": 10_000},
            "environment": {"num_envs": 8 // ranks.size, "normalize_obs": True},
            "architecture": {"hidden_sizes": (16,)},
            "spo": {"replay_size": 128, "batch_size": 32, "replay_ratio": 4.0},
        }
    )
    spec = make_vector_env("CartPole-v1", 1, 0).spec
    return Spo(spec, config, Runtime(torch.device("cpu"), spawn_seeds(1, ranks.rank), ranks))


def trained_by_search(ranks: Ranks) -> Any:
    """Two updates of SPO: weights, target networks and multipliers, metrics, and what each rank did."""
    spo = searcher(ranks)
    env = make_vector_env("CartPole-v1", 8 // ranks.size, 1 + ranks.rank * 8 // ranks.size)
    storage = spo.make_storage(env.num_envs)
    for progress in (0.0, 0.5):
        collect(spo, env, storage, EpisodeStatistics(env.num_envs))
        metrics = spo.update(storage, progress)
    state = spo.state_dict()
    parts = [value.double().flatten() for name in ("network", "target", "duals") for value in state[name].values()]
    return torch.cat(parts).tolist(), metrics._asdict(), storage.action.tolist()


def continued(ranks: Ranks) -> Any:
    return saved_and_put_back(ranks, learner)


def continued_by_search(ranks: Ranks) -> Any:
    return saved_and_put_back(ranks, searcher)


def saved_and_put_back(ranks: Ranks, make: Callable[[Ranks], Any]) -> Any:
    """What a rank has of its own: saved, after two more updates, put back, and in a process that begins with it."""
    state, other = (RunState(make(ranks), EpisodeStatistics(8 // ranks.size), ranks=ranks) for _ in range(2))
    env = make_vector_env("CartPole-v1", 8 // ranks.size, 1 + ranks.rank * 8 // ranks.size)
    storage = state.learner.make_storage(env.num_envs)

    def learn() -> None:
        collect(state.learner, env, storage, state.episodes)
        state.learner.update(storage, 0.0)

    learn()
    captured = encode(state.capture("some", SpoConfig(), {}))
    (content, *_), saved = ranks.gather(captured), own_state(state)
    learn()
    learn()
    changed = own_state(state)
    checkpoint = decode(content, "x")
    state.restore_learner(checkpoint)
    other.restore(checkpoint)
    return {"saved": saved, "changed": changed, "rolled back": own_state(state), "resumed": own_state(other)}


def own_state(state: RunState) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return plain(state.learner.state_dict()["own"])


WORK: dict[str, Callable[[Ranks], Any]] = {
    work.__name__: work
    for work in (
        *(optimised, poisoned, moments, normalised, exchanged, diverged, summed_up),
        *(trained, trained_by_search, continued, continued_by_search),
    )
}


def member(rank: int, port: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    environ = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(environ)
    try:
        ranks = join_ranks(torch.device("cpu"))
        pipe.send({name: work(ranks) for name, work in WORK.items()})
        ranks.close()
    except BaseException:
        pipe.send(traceback.format_exc())


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    """What each of two ranks has found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    members = [context.Process(target=member, args=(rank, port, pipes[rank][1])) for rank in range(2)]
    for process in members:
        process.start()
    found = [reader.recv() if reader.poll(200) else "no answer" for reader, _ in pipes]
    for process in members:
        process.join(60)
    for result in found:
        assert isinstance(result, dict), result
    return found


@pytest.mark.parametrize("name", ["optimised", "moments", "normalised"])
def test_two_ranks_on_halves_compute_what_one_does_on_all(name: str, pair: list[dict[str, Any]]) -> None:
    assert pair[0][name] == pair[1][name], "equal to the bit"
    assert pair[0][name] == pytest.approx(WORK[name](ALONE), rel=1e-5, abs=1e-6)


def test_step_that_is_not_finite_on_one_rank_is_taken_by_none(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["poisoned"] == pair[1]["poisoned"] == numbers(network())


def test_ranks_tell_each_other_numbers_and_values(pair: list[dict[str, Any]]) -> None:
    expected = ([0.5, 1.0], [1.0, 2.0], [{"rank": 0}, {"rank": 1}], {"rank": 0})
    assert pair[0]["exchanged"] == pair[1]["exchanged"] == expected
    assert exchanged(ALONE) == ([0.0, 1.0], [0.0, 1.0], [{"rank": 0}], {"rank": 0})


def test_rank_that_diverges_takes_the_others_with_it(pair: list[dict[str, Any]]) -> None:
    assert [found["diverged"] for found in pair] == ["the last one got nan"] * 2


def test_steps_and_episodes_are_those_of_all(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["summed_up"] == pair[1]["summed_up"] == (10, 4, 1.5, 1.0, 2.0)
    assert summed_up(ALONE) == (5, 2, 1.0, 1.0, 1.0)


def test_networks_stay_equal_while_each_rank_explores_on_its_own(pair: list[dict[str, Any]]) -> None:
    (weights, metrics, actions), (other_weights, other_metrics, other_actions) = (found["trained"] for found in pair)
    assert weights == other_weights, "to the bit, statistics included"
    assert metrics == pytest.approx(other_metrics, nan_ok=True)
    assert actions != other_actions
    assert weights != trained(ALONE)[0]


def test_search_learns_the_same_on_all_ranks_while_each_explores_on_its_own(pair: list[dict[str, Any]]) -> None:
    (weights, metrics, actions), (other_weights, other_metrics, other_actions) = (
        found["trained_by_search"] for found in pair
    )
    assert weights == other_weights, "to the bit, statistics included"
    assert metrics == pytest.approx(other_metrics)
    assert metrics["num_gradient_steps"] == trained_by_search(ALONE)[1]["num_gradient_steps"] == 8
    assert actions != other_actions


@pytest.mark.parametrize("name", ["continued", "continued_by_search"])
def test_each_rank_gets_back_what_is_its_own(name: str, pair: list[dict[str, Any]]) -> None:
    first, second = (found[name] for found in pair)
    for found in (first, second):
        for key, value in found["saved"].items():
            assert found["changed"][key] != value, key
            assert found["rolled back"][key] == found["resumed"][key] == value, key
            assert first["saved"][key] != second["saved"][key], key


# --- without others


def test_process_that_torchrun_has_not_started_is_alone() -> None:
    assert join_ranks(torch.device("cpu"), {}) is ALONE
    single = join_ranks(torch.device("cpu"), {"RANK": "0", "WORLD_SIZE": "1"})
    assert (single.size, single.is_first) == (1, True)
    assert (local_rank({}), local_rank({"LOCAL_RANK": "3"})) == (0, 3)


def test_ranks_agree_on_networks_and_environments_and_differ_in_the_rest() -> None:
    first, second = spawn_seeds(3), spawn_seeds(3, rank=1)
    assert (first.network, first.environment) == (second.network, second.environment)
    assert first.policy != second.policy
    assert first.minibatch != second.minibatch
    assert spawn_seeds(3, rank=2).policy != second.policy


def share(num_envs: int, size: int, compile_mode: str = "auto") -> PpoConfig:
    from trainers.cli.assembly import share_of

    sections = {"environment": {"num_envs": num_envs}, "hardware": {"compile": compile_mode}}
    return share_of(PpoConfig.model_validate(sections), Ranks(0, size))


def test_share_of_a_run_has_as_many_updates_on_its_part_of_the_environments() -> None:
    whole, part = share(64, 1), share(64, 4)
    assert part.environment.num_envs == 16
    assert part.num_updates == whole.num_updates
    assert part.batch_size == whole.batch_size // 4


@pytest.mark.parametrize(
    ("num_envs", "size", "compile_mode", "message"),
    [
        (6, 4, "auto", r"environment.num_envs: got 6 for 4 ranks; expected a multiple"),
        (64, 2, "default", r"hardware.compile: got 'default' with 2 ranks"),
    ],
)
def test_run_that_cannot_be_shared_is_refused(num_envs: int, size: int, compile_mode: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        share(num_envs, size, compile_mode)
