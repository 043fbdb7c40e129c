import copy
from typing import Any

import numpy as np
import pytest
import torch
from spo_parts import SMALL, WIDE_SPEEDS, Parts, weights

from trainers.config import SpoConfig
from trainers.errors import ConfigError, DivergenceError, TaskError
from trainers.evaluation import run_episodes
from trainers.rollout import collect
from trainers.spo.search import search
from trainers.spo.setup import check_shares
from trainers.spo.tree import search_tree


@pytest.mark.parametrize(
    "task",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "Maze-v0",
        "RubiksCube-partly-scrambled-v0",
        "BinPack-v2",
        "Game2048-v1",
        "FrozenLake-v1",
        "Knapsack-v1",
        "Hopper-v4",
    ],
)
def test_every_kind_of_task_can_be_learnt_from(task: str) -> None:
    parts = Parts(task, environment=WIDE_SPEEDS if task == "Hopper-v4" else {})
    before = weights(parts.spo)
    metrics = parts.update(2)
    assert np.isfinite(list(metrics.values())).all()
    assert not torch.equal(weights(parts.spo), before)
    assert metrics["replay_size"] == 64
    assert metrics["num_gradient_steps"] == 4
    assert {f"ess_depth_{depth}" for depth in (1, 2, 3)} <= metrics.keys()
    assert parts.spo.num_updates == 2


def test_sequences_can_be_learnt_from() -> None:
    parts = Parts(spo={"targets": "sequences", "sequence_length": 8, "target_update": 0.01})
    assert np.isfinite(list(parts.update(3).values())).all()


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = Parts(), Parts(), Parts(training_core={"seed": 2})
    for parts in (first, same, other):
        parts.update(3)
    assert torch.equal(weights(first.spo), weights(same.spo))
    assert not torch.allclose(weights(first.spo), weights(other.spo))


@pytest.mark.parametrize("mode", ["particles", "tree"])
def test_groups_that_step_in_turns_search_the_same(mode: str) -> None:
    one, two = (Parts(num_groups=count, search={"mode": mode}) for count in (1, 2))
    for parts in (one, two):
        collect(parts.spo, parts.env, parts.storage, parts.episodes)
    assert torch.equal(one.storage.obs, two.storage.obs)
    torch.testing.assert_close(one.found.weight, two.found.weight)


def test_executed_action_is_one_of_the_atoms_that_carry_weight() -> None:
    parts = Parts("Maze-v0")
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    is_same = parts.found.action == parts.storage.action.unsqueeze(-1)
    assert (is_same & (parts.found.weight > 0)).any(-1).all()


def test_learner_that_was_just_continued_can_be_saved_with_its_replay() -> None:
    trained = Parts()
    trained.update(1)
    resumed = Parts()
    resumed.spo.load_state_dict(copy.deepcopy(trained.spo.state_dict()))
    assert resumed.spo.state_dict()["own"]["replay"] is not None


def test_continued_learner_ends_bit_for_bit_where_the_uninterrupted_one_ends() -> None:
    whole, broken = Parts(), Parts()
    whole.update(2)
    broken.update(2)
    state = copy.deepcopy(broken.spo.state_dict())
    resumed = Parts()
    resumed.env, resumed.storage = broken.env, broken.storage
    resumed.spo.load_state_dict(state)
    assert whole.update(3) == resumed.update(3)
    assert torch.equal(weights(whole.spo), weights(resumed.spo))
    assert resumed.spo.num_updates == 5


def test_learner_that_goes_back_has_the_replay_of_then() -> None:
    parts = Parts()
    parts.update(2)
    state = copy.deepcopy(parts.spo.state_dict())
    parts.update(2)
    parts.spo.load_state_dict(copy.deepcopy(state))
    parts.storage.start_anew()
    assert parts.update()["replay_size"] == 96
    kept, before = parts.spo.state_dict()["own"]["replay"], state["own"]["replay"]
    assert kept["num_added"] == before["num_added"] + 1
    assert torch.equal(kept["obs"][:2], before["obs"])


def test_replay_of_another_number_of_environments_is_left_behind() -> None:
    trained, resumed = Parts(), Parts(environment={"num_envs": 2}, spo={"replay_size": 48})
    trained.update(2)
    resumed.spo.load_state_dict(copy.deepcopy(trained.spo.state_dict()))
    assert resumed.update()["replay_size"] == 16


def test_model_of_a_state_acts_and_nothing_else_is_taken() -> None:
    trained, fresh = Parts(), Parts(training_core={"seed": 2})
    trained.update(2)
    fresh.spo.load_model(copy.deepcopy(trained.spo.state_dict()))
    obs, elapsed = trained.env.reset(), np.zeros(4, np.int64)
    np.testing.assert_array_equal(
        trained.spo.deterministic_policy()(obs, elapsed), fresh.spo.deterministic_policy()(obs, elapsed)
    )
    assert fresh.spo.num_updates == 0


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("CartPole-v1", {}, {"init_temperature": 7.0, "init_alpha": 9.0}),
        ("CartPole-v1", {}, {"adaptive_temperature": False, "init_temperature": 7.0}),
        ("CartPole-v1", {"adaptive_temperature": False, "init_temperature": 0.2}, {"init_temperature": 7.0}),
        ("Hopper-v4", {}, {"per_dim_constraining": False, "init_temperature": 7.0}),
    ],
)
def test_training_from_a_model_starts_with_the_configured_multipliers(
    task: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    environment = WIDE_SPEEDS if task == "Hopper-v4" else {}
    trained, fresh = (Parts(task, environment=environment, spo=changes) for changes in (before, after))
    trained.update()
    configured = copy.deepcopy(fresh.spo.state_dict()["duals"])
    fresh.spo.load_model(copy.deepcopy(trained.spo.state_dict()))
    assert torch.equal(weights(fresh.spo), weights(trained.spo))
    torch.testing.assert_close(fresh.spo.state_dict()["duals"], configured)
    # a model that is only run acts as it did
    assert torch.equal(fresh.spo._temperature(), trained.spo._temperature())
    fresh.spo.begin_rollout(fresh.storage)
    assert float(fresh.spo._temperature()) == float(fresh.spo._actor._temperature) == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("task", "mode"), [("CartPole-v1", "particles"), ("CartPole-v1", "tree"), ("Pendulum-v1", "auto")]
)
def test_evaluation_repeats_itself_and_leaves_the_training_alone(task: str, mode: str) -> None:
    parts = Parts(task, search={"mode": mode}, environment={"max_episode_steps": 30})
    parts.update(2)
    before = copy.deepcopy(parts.spo.state_dict())
    first, second = (run_episodes(parts.spo.deterministic_policy(), parts.make_env(99, 3), 3) for _ in range(2))
    assert first == second
    after = parts.spo.state_dict()
    assert torch.equal(before["own"]["noise_generator"], after["own"]["noise_generator"])
    assert torch.equal(before["own"]["minibatch_generator"], after["own"]["minibatch_generator"])


def test_targets_follow_by_their_share_once_per_update() -> None:
    parts = Parts(spo={"target_update": 0.25})
    start = weights(parts.spo)
    parts.update()
    target = torch.cat([parameter.flatten() for parameter in parts.spo._target.parameters()])
    torch.testing.assert_close(target, start + 0.25 * (weights(parts.spo) - start))


def test_targets_of_a_whole_rollout_are_the_same_in_both_kinds_of_minibatch() -> None:
    parts = Parts(spo={"targets": "sequences", "sequence_length": 8})
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    replay = parts.spo._keep(parts.storage)
    (sequences,) = replay.draw_sequences(1, 50, 8, torch.Generator().manual_seed(0))
    batch = parts.spo._batches._judge(replay, sequences)
    cached = parts.spo._batches._value_targets(replay)[sequences.slot, sequences.t, sequences.env].flatten()
    valid = batch.valid > 0
    torch.testing.assert_close(batch.value_target[valid], cached[valid])


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_fixed_temperature_stays_and_is_what_is_reported(task: str) -> None:
    parts = Parts(task, spo={"adaptive_temperature": False, "init_temperature": 0.7})
    parts.update()
    first = parts.update()
    assert first["temperature"] == parts.update()["temperature"] == pytest.approx(0.7, abs=1e-7)
    assert float(parts.spo._temperature()) == pytest.approx(0.7, abs=1e-7)
    assert first["kl_e_step"] > 0
    assert parts.update()["alpha"] != first["alpha"]


def test_rates_fall_to_zero_where_they_are_annealed() -> None:
    parts = Parts(optimization={"anneal_lr": True, "actor_lr": 1e-3})
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    assert parts.spo.update(parts.storage, 0.75)._asdict()["actor_lr"] == pytest.approx(2.5e-4)


def test_running_statistics_of_observations_are_those_of_the_target_networks_too() -> None:
    parts = Parts("Pendulum-v1", environment={"normalize_obs": True})
    parts.update()
    assert parts.spo._target.encoder is parts.spo.network.encoder
    assert parts.spo.network.encoder.normalizer is not None


def test_rewards_are_scaled_for_search_and_critic_alike() -> None:
    plain, scaled = (Parts("Pendulum-v1", environment={"reward_scale": scale}) for scale in (1.0, 0.1))
    for parts in (plain, scaled):
        collect(parts.spo, parts.env, parts.storage, parts.episodes)
    kept = scaled.spo._keep(scaled.storage).experience.reward[0]
    torch.testing.assert_close(kept, 0.1 * scaled.storage.reward)
    # the first searches are of the same futures, and the critic's values in them small beside the rewards
    ratio = scaled.found.advantage[0].mean() / plain.found.advantage[0].mean()
    assert float(ratio) < 0.3


def test_number_that_is_not_finite_is_named() -> None:
    parts = Parts()
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    parts.storage.reward[0, 0] = torch.nan
    with pytest.raises(DivergenceError, match=r"critic_loss nan.*Lower the learning rates"):
        parts.spo.update(parts.storage, 0.0)


@pytest.mark.parametrize("targets", ["cached", "sequences"])
@pytest.mark.parametrize("num_before", [0, 1, 5])
def test_rollout_that_diverges_spoils_none_of_the_next_updates(targets: str, num_before: int) -> None:
    parts = Parts(spo={"targets": targets, "sequence_length": 8})
    for _ in range(num_before):
        parts.update()
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    parts.storage.reward.fill_(1e30)  # finite, and its square is not
    with pytest.raises(DivergenceError):
        parts.spo.update(parts.storage, 0.0)
    assert float(parts.spo.state_dict()["own"]["replay"]["experience"]["reward"].sum()) < 1e3
    assert np.isfinite(list(parts.update(2).values())).all()


@pytest.mark.parametrize(
    ("task", "changes", "expected"),
    [
        ("CartPole-v1", {"num_particles": 16, "search_depth": 4}, search_tree),  # 30 nodes, 64 at most
        ("CartPole-v1", {"num_particles": 16, "search_depth": 6}, search),  # 126 nodes, 96 at most
        ("CartPole-v1", {"num_particles": 2, "search_depth": 6, "mode": "tree"}, search_tree),
        ("CartPole-v1", {"num_particles": 16, "search_depth": 4, "mode": "particles"}, search),
        ("CartPole-v1", {"num_particles": 16, "search_depth": 4, "reference": ("terminals",)}, search),
        ("FrozenLake-v1", {"num_particles": 64, "search_depth": 1}, search),  # left to chance
        ("Pendulum-v1", {"num_particles": 64, "search_depth": 1}, search),
    ],
)
def test_kind_of_search_follows_the_task_and_its_size(task: str, changes: dict[str, Any], expected: Any) -> None:
    assert Parts(task, search=changes).spo._plan.search is expected


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("FrozenLake-v1", {"mode": "tree"}, "leaves something to chance"),
        ("RubiksCube-v0", {"mode": "tree", "search_depth": 4}, "111150 nodes .18 actions, depth 4."),
    ],
)
def test_tree_is_refused_where_there_can_be_none(task: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Parts(task, search=changes)


@pytest.mark.parametrize(
    ("spo", "num_ranks", "message"),
    [
        ({"targets": "sequences", "sequence_length": 8}, 3, r"got 16; expected a multiple of 24, 3 .* sequences of 8"),
        (
            {"targets": "sequences", "sequence_length": 8, "replay_size": 128},
            4,
            r"got 16; expected a multiple of 32, 4 .* sequences of 8",
        ),
        ({"targets": "cached"}, 3, r"got 16; expected a multiple of 3, 3 processes, so"),
        ({"replay_size": 95}, 3, r"spo.replay_size: got 95; expected at least one rollout of all 3 processes, 96 "),
    ],
)
def test_minibatch_that_ranks_cannot_share_is_refused(spo: dict[str, Any], num_ranks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(small_config(spo), num_ranks)
    check_shares(small_config({**spo, "replay_size": 128}), 2)


def small_config(spo: dict[str, Any]) -> SpoConfig:
    sections = {**SMALL, "spo": {**SMALL["spo"], **spo}}
    return SpoConfig(environment={"num_envs": 4}, **sections)


def test_epsilon_that_particles_cannot_reach_is_refused_where_auto_comes_to_them() -> None:
    changes = {"spo": {"epsilon": 1.5}}
    with pytest.raises(ConfigError, match=r"spo.epsilon: got 1.5; expected less than 1.39, log 4: .*num_particles 4"):
        Parts("Pendulum-v1", **changes)
    Parts("Pendulum-v1", spo={"epsilon": 1.5, "adaptive_temperature": False})
    assert Parts(search={"search_depth": 2}, **changes).spo._plan.search is search_tree


def test_task_without_a_simulator_is_refused() -> None:
    with pytest.raises(TaskError, match="expected a task with a simulator"):
        Parts("LunarLander-v3")


def test_catch_is_learnt_within_some_seconds() -> None:
    parts = Parts(
        "Catch-v0",
        environment={"num_envs": 16},
        training_core={"horizon": 16},
        search={"num_particles": 16, "search_depth": 4},
        spo={"replay_size": 1024, "batch_size": 128, "replay_ratio": 16.0},
    )
    parts.update(12)
    assert run_episodes(parts.spo.deterministic_policy(), parts.make_env(99, 10), 20).mean_return == 1.0
