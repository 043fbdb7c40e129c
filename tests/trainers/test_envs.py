from types import SimpleNamespace
from typing import Any, NamedTuple

import envpool
import numpy as np
import pytest
from envpool.python.protocol import ArraySpec
from numpy.typing import NDArray

from trainers.envs import EnvGroup, VectorEnv, make_vector_env, rendering, task_config
from trainers.envs.spec import read_spec
from trainers.errors import ConfigError, DivergenceError, MissingError, TaskError
from trainers.networks.trunks import NatureCnn
from trainers.observations import Leaf

ONE_AT_A_TIME = 3


def cart_pole(num_envs: int = ONE_AT_A_TIME, seed: int = 5, **settings: Any) -> VectorEnv:
    return make_vector_env("CartPole-v1", num_envs, seed, **settings)


def zeros(env: VectorEnv) -> NDArray[Any]:
    dtype = np.float32 if env.spec.action.kind == "continuous" else np.int64
    return np.zeros((env.num_envs, *env.spec.action.shape), dtype)


class SpyPool:
    """Passes everything on and notes the actions that reach envpool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.actions: list[NDArray[Any]] = []

    def send(self, actions: NDArray[Any]) -> None:
        self.actions.append(actions.copy())
        self._pool.send(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def pool_of(env: VectorEnv) -> Any:
    return env.groups[0][0]._pool


def spied(env: VectorEnv) -> tuple[VectorEnv, SpyPool]:
    spy = SpyPool(pool_of(env))
    return VectorEnv([EnvGroup(spy, env.spec, env.num_envs)], env.spec), spy


# -- what a task looks like


def test_discrete_task_is_read_from_envpool() -> None:
    spec = cart_pole().spec
    assert (spec.obs.shape, spec.action.kind, spec.action.sizes, spec.action.shape) == ((4,), "discrete", (2,), ())
    assert (spec.action.dtype, spec.reward_threshold) == (np.dtype(np.int32), 475.0)


def test_continuous_task_is_read_from_envpool() -> None:
    action = make_vector_env("Pendulum-v1", 2, 0).spec.action
    assert (action.kind, action.sizes, action.shape) == ("continuous", (1,), (1,))
    assert (action.low.tolist(), action.high.tolist()) == ([-2.0], [2.0])


def test_integer_box_is_a_multi_discrete_action() -> None:
    action = make_vector_env("RubiksCube-v0", 2, 0).spec.action
    assert (action.kind, action.sizes, action.shape) == ("multi_discrete", (6, 1, 3), (3,))


def made_up_spec(**actions: ArraySpec) -> Any:
    obs = ArraySpec(np.float64, [3], (-1.0, 1.0), ([], []))
    config = SimpleNamespace(max_num_players=1)
    return SimpleNamespace(
        config=config, state_array_spec={"obs": obs}, action_array_spec=actions, reward_threshold=None
    )


@pytest.mark.parametrize("task", ["FrozenLake-v1", "FrozenLake8x8-v1"])
def test_lake_without_a_map_is_refused(task: str) -> None:
    with pytest.raises(TaskError, match=rf"got size=5; expected 4 or 8, of which {task} has maps"):
        make_vector_env(task, 1, 0, options={"size": 5})
    for size in (4, 8):
        assert make_vector_env(task, 1, 0, options={"size": size}).spec.obs.leaves[0].high == size**2 - 1


def test_smallest_positive_number_is_not_taken_for_a_lower_bound() -> None:
    tiny, huge = np.finfo(np.float64).tiny, np.finfo(np.float64).max
    action = ArraySpec(np.float64, [-1, 2], (0.0, 0.0), ([tiny, -1.0], [huge, 1.0]))
    spec = read_spec("Made-up-v0", made_up_spec(action=action)).action
    assert (spec.low.tolist(), spec.high.tolist()) == ([-np.inf, -1.0], [np.inf, 1.0])


def test_action_of_several_arrays_is_refused() -> None:
    action = ArraySpec(np.float64, [-1, 2], (-1.0, 1.0), ([], []))
    with pytest.raises(TaskError, match="has an action made of 2 arrays"):
        read_spec("Made-up-v0", made_up_spec(left=action, right=action))


def test_nested_observation_becomes_one_vector_in_the_order_of_its_leaves() -> None:
    env = make_vector_env("CheetahRun-v1", 2, 9)
    raw, _ = envpool.make_gymnasium("CheetahRun-v1", num_envs=2, seed=9).reset()
    expected = np.concatenate([raw["position"], raw["velocity"]], 1).astype(np.float32)
    assert [leaf.path for leaf in env.spec.obs.leaves] == [("obs", "position"), ("obs", "velocity")]
    np.testing.assert_array_equal(env.reset(), expected)


@pytest.mark.parametrize("task", ["CartPole-v1", "CheetahRun-v1", "RubiksCube-v0", "Catch-v0", "Blackjack-v1"])
def test_observations_are_flat_float32_whatever_the_task_has(task: str) -> None:
    env = make_vector_env(task, 2, 0)
    step_obs = (env.reset(), env.step(zeros(env)).obs)
    assert [(obs.dtype, obs.shape) for obs in step_obs] == [(np.float32, (2, *env.spec.obs.shape))] * 2


def leaf_of(task: str, *path: str) -> Leaf:
    return next(leaf for leaf in make_vector_env(task, 1, 0).spec.obs.leaves if leaf.path == path)


@pytest.mark.parametrize(
    ("task", "path", "kind", "bounds"),
    [
        ("Taxi-v3", ("obs",), "symbol", (0, 499)),
        ("Blackjack-v1", ("obs",), "symbol", (0, 31)),
        ("Sokoban-v0", ("obs", "grid"), "symbol", (0, 4)),
        ("Sokoban-v0", ("obs", "step_count"), "number", (0, 120)),
        ("GraphColoring-v1", ("obs", "colors"), "symbol", (-1, 19)),
        ("Game2048-v1", ("obs", "board"), "symbol", (0, 17)),
        ("MiniGrid-Empty-5x5-v0", ("obs", "image"), "symbol", (0, 10)),
        ("MiniGrid-Empty-5x5-v0", ("obs", "mission"), "number", (0, 255)),
        ("PacMan-v1", ("obs", "score"), "number", (-np.inf, np.inf)),
        ("Maze-v0", ("obs", "walls"), "number", (-np.inf, np.inf)),
        ("Play2048-v1", ("info", "legal_action_mask"), "mask", (-np.inf, np.inf)),
        ("CarRacing-v3", ("obs",), "image", (0, 255)),
    ],
)
def test_leaf_is_read_by_what_its_numbers_mean(
    task: str, path: tuple[str, ...], kind: str, bounds: tuple[float, float]
) -> None:
    leaf = leaf_of(task, *path)
    assert (leaf.kind, (leaf.low, leaf.high)) == (kind, bounds)


def test_image_stays_an_image_of_bytes() -> None:
    env = make_vector_env("Pong-v5", 2, 0)
    obs, step = env.reset(), env.step(zeros(env))
    assert [(o.dtype, o.shape) for o in (obs, step.obs)] == [(np.uint8, (2, 4, 84, 84))] * 2
    assert env.spec.obs.is_image


@pytest.mark.parametrize("side", ["img_height", "img_width"])
def test_image_of_which_the_convolutions_leave_nothing_is_refused(side: str) -> None:
    with pytest.raises(TaskError, match=r"with images of (35 x 84|84 x 35); expected at least 36 x 36"):
        make_vector_env("Pong-v5", 1, 0, options={side: 35})


@pytest.mark.parametrize("shape", [[36, 36, 3], [4, 36, 36]])
def test_smallest_image_passes_the_convolutions(shape: list[int]) -> None:
    spec = made_up_spec(action=ArraySpec(np.int32, [], (0, 3), ([], [])))
    spec.state_array_spec["obs"] = ArraySpec(np.uint8, shape, (0, 255), ([], []))
    layout = read_spec("Made-up-v0", spec).obs
    assert layout.is_image
    assert NatureCnn(layout.shape).num_features == 64


def test_observations_are_written_where_they_are_wanted() -> None:
    for task in ("CartPole-v1", "HalfCheetah-v4", "Maze-v0", "Pong-v5"):
        env, twin = (make_vector_env(task, 2, 3) for _ in range(2))
        dtype = np.uint8 if env.spec.obs.is_image else np.float32
        out = np.zeros((2, *env.spec.obs.shape), dtype)
        assert env.reset(out) is out
        np.testing.assert_array_equal(out, twin.reset())


# -- action masks


class Masked(NamedTuple):
    """A task with an action mask, and the choices that its learner has."""

    task: str
    kind: str
    sizes: tuple[int, ...]


MASKED = [
    Masked("Maze-v0", "discrete", (4,)),
    Masked("Play2048-v1", "discrete", (4,)),
    Masked("BinPack-v2", "discrete", (800,)),
    Masked("Minesweeper-v0", "discrete", (100,)),
    Masked("FlatPack-v0", "discrete", (8100,)),
    Masked("JobShop-v0", "multi_discrete", (21,) * 10),
    Masked("RobotWarehouse-v0", "multi_discrete", (5,) * 4),
]


def masks_of(env: VectorEnv, obs: NDArray[Any]) -> NDArray[np.bool_]:
    """[N, dimensions, choices]."""
    return obs[:, env.spec.obs.mask].reshape(env.num_envs, -1, env.spec.action.sizes[0]) != 0


@pytest.mark.parametrize("case", MASKED, ids=lambda case: case.task)
def test_legal_actions_are_executed_and_illegal_ones_never_reach_envpool(case: Masked) -> None:
    env, spy = spied(make_vector_env(case.task, 4, 0))
    assert (env.spec.action.kind, env.spec.action.sizes) == (case.kind, case.sizes)
    draw, obs, alive = np.random.default_rng(0), env.reset(), np.ones(4, bool)
    num_refused = 0
    for _ in range(30):
        mask = masks_of(env, obs)
        rows = np.argwhere(~mask & alive[:, None, None] & mask.any(2, keepdims=True))
        mask |= ~mask.any(2, keepdims=True)
        action = (draw.random(mask.shape) * mask).argmax(2)
        if rows.size:
            index, dimension, choice = rows[0]
            illegal = action.copy()
            illegal[index, dimension] = choice
            with pytest.raises(ValueError, match=rf"got environment {index} illegal under its mask; expected legal"):
                env.step(illegal.reshape(4, *env.spec.action.shape))
            num_refused += 1
        step = env.step(action.reshape(4, *env.spec.action.shape))
        obs, alive = step.obs, ~(step.terminated | step.truncated)
    assert num_refused > 0
    assert len(spy.actions) == 30


def test_one_choice_for_several_is_taken_apart_again() -> None:
    env, spy = spied(make_vector_env("Minesweeper-v0", 3, 0))
    env.reset()
    env.step(np.array([0, 57, 99]))
    assert spy.actions[0].tolist() == [[0, 0], [5, 7], [9, 9]]
    assert env.spec.action.native_sizes == (10, 10)


def test_mask_that_fits_no_action_is_refused() -> None:
    spec = made_up_spec(action=ArraySpec(np.int32, [-1, 2], (0, 3), ([], [])))
    spec.state_array_spec["obs:action_mask"] = ArraySpec(np.bool_, [5], (False, True), ([], []))
    with pytest.raises(TaskError, match=r"an action mask of shape \(5,\) for multi_discrete actions \(4, 4\)"):
        read_spec("Made-up-v0", spec)


# -- Atari


def test_atari_counts_games_and_raw_scores_whatever_training_sees() -> None:
    options = {"episodic_life": True, "reward_clip": True, "noop_max": 1}
    env = make_vector_env("Breakout-v5", 4, 0, options=options)
    env.reset()
    draw = np.random.default_rng(0)
    lives_lost = games = 0
    for _ in range(700):
        step = env.step(draw.integers(0, 4, 4))
        assert np.array_equal(np.sign(step.score), step.reward)
        assert not (step.finished & ~(step.terminated | step.truncated)).any()
        lives_lost, games = lives_lost + int(step.terminated.sum()), games + int(step.finished.sum())
        assert (step.info["lives"][step.finished] == 0).all()
    assert games >= 4
    assert lives_lost == pytest.approx(5 * games, abs=5 * 4)


def test_score_of_other_tasks_is_their_reward() -> None:
    env = cart_pole()
    env.reset()
    step = env.step(zeros(env))
    assert np.array_equal(step.score, step.reward)
    assert np.array_equal(step.finished, step.terminated | step.truncated)


# -- groups that step in turns


def test_groups_play_the_episodes_of_one_group() -> None:
    one, three = (make_vector_env("CartPole-v1", 6, 4, num_groups=groups) for groups in (1, 3))
    np.testing.assert_array_equal(one.reset(), three.reset())
    draw = np.random.default_rng(0)
    for _ in range(60):
        action = draw.integers(0, 2, 6)
        steps = [env.step(action) for env in (one, three)]
        for name in ("obs", "reward", "terminated", "truncated", "valid", "score", "finished"):
            np.testing.assert_array_equal(*(getattr(step, name) for step in steps))


# -- rendering


def test_task_is_rendered_where_it_can_be() -> None:
    env = make_vector_env("CartPole-v1", 2, 0, options={"render_mode": "rgb_array"})
    env.reset()
    picture = env.render()
    assert (picture.dtype, picture.ndim, picture.shape[0], picture.shape[-1]) == (np.uint8, 4, 2, 3)
    assert len(np.unique(picture)) > 1


def test_process_survives_a_task_that_cannot_be_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "PROBE", "import sys; print('no OpenGL here', file=sys.stderr); sys.exit(1)")
    rendering._failure.cache_clear()
    with pytest.raises(MissingError, match=r"'Hopper-v4' to be rendered; .* It says: no OpenGL here\. Install"):
        make_vector_env("Hopper-v4", 1, 0, options={"from_pixels": True})
    rendering._failure.cache_clear()


# -- autoreset, ends of episodes


def test_row_after_an_end_is_a_dummy_that_ignores_its_action() -> None:
    env = cart_pole(max_episode_steps=200)
    env.reset()
    done = np.zeros(env.num_envs, bool)
    dummies = 0
    for _ in range(100):
        step = env.step(zeros(env))
        np.testing.assert_array_equal(step.valid, ~done)
        assert not step.reward[done].any()
        assert not (step.terminated | step.truncated)[done].any()
        assert (np.abs(step.obs[done]) <= 0.05).all()  # where CartPole starts
        done = step.terminated | step.truncated
        dummies += int(done.sum())
    assert dummies > ONE_AT_A_TIME


def test_row_that_ends_an_episode_holds_its_true_last_observation() -> None:
    env = cart_pole()
    env.reset()
    while not (step := env.step(zeros(env))).terminated.any():
        pass
    fallen = step.obs[step.terminated]
    assert ((np.abs(fallen[:, 2]) > 0.2094) | (np.abs(fallen[:, 0]) > 2.4)).all()


def test_time_limit_truncates_and_does_not_terminate() -> None:
    env = make_vector_env("Pendulum-v1", 2, 0, max_episode_steps=3)
    env.reset()
    steps = [env.step(zeros(env)) for _ in range(4)]
    assert [step.truncated.all() for step in steps] == [False, False, True, False]
    assert not any(step.terminated.any() for step in steps)
    assert [step.valid.all() for step in steps] == [True, True, True, False]


def test_time_limit_holds_where_the_task_ignores_it() -> None:
    env = make_vector_env("Catch-v0", 4, 0, max_episode_steps=3)
    env.reset()
    steps = [env.step(np.ones(4, np.int64)) for _ in range(8)]
    assert [step.truncated.tolist() for step in steps] == [[i % 4 == 2] * 4 for i in range(8)]
    assert [step.valid.tolist() for step in steps] == [[i % 4 != 3] * 4 for i in range(8)]
    for fresh in (steps[3], steps[7]):
        assert not fresh.reward.any()
        assert (fresh.obs.reshape(4, 10, 5)[:, 0].sum(1) == 1).all()  # the ball is in the first row again


class Counting:
    """A pool whose episodes end at step 3, count their steps in the observation, and pay 1 a step."""

    def __init__(self, num_envs: int) -> None:
        self.count = np.zeros(num_envs, np.int32)
        self.resets: list[list[int]] = []

    def reset(self, rows: NDArray[np.int32] | None = None) -> Any:
        rows = np.arange(len(self.count), dtype=np.int32) if rows is None else rows
        self.resets.append(rows.tolist())
        self.count[rows] = 0
        return self._obs()[rows], {}

    def send(self, actions: NDArray[Any]) -> None:
        self.count += 1

    def recv(self) -> Any:
        no = np.zeros(len(self.count), bool)
        return self._obs(), np.ones(len(no), np.float32), self.count == 3, no, {}

    def _obs(self) -> NDArray[np.float32]:
        return np.repeat(self.count[:, None], 4, 1).astype(np.float32)


@pytest.mark.parametrize("task", ["Game2048-v1", "Jumanji/Game2048-v1"])
@pytest.mark.parametrize(("limit", "expected"), [(None, 2**31 - 1), (7, 7)])
def test_end_of_a_long_game_is_no_time_limit_unless_one_was_asked_for(
    task: str, limit: int | None, expected: int
) -> None:
    env = make_vector_env(task, 1, 0, max_episode_steps=limit)
    assert pool_of(env).spec.config.max_episode_steps == expected
    assert task_config(task, max_episode_steps=limit)["max_episode_steps"] == expected


def test_imposed_limit_makes_the_row_after_it_a_clean_dummy() -> None:
    pool, spec = Counting(2), cart_pole().spec
    env = VectorEnv([EnvGroup(pool, spec, 2, max_episode_steps=2)], spec)
    env.reset()
    steps = [env.step(np.zeros(2, np.int64)) for _ in range(7)]
    assert [step.obs[0, 0] for step in steps] == [1, 2, 0, 1, 2, 0, 1]
    assert [step.reward[0] for step in steps] == [1, 1, 0, 1, 1, 0, 1]
    assert [bool(step.truncated[0]) for step in steps] == [False, True, False, False, True, False, False]
    assert [bool(step.valid[0]) for step in steps] == [True, True, False, True, True, False, True]
    assert not any(step.terminated.any() for step in steps)  # envpool's own third step is thrown away
    assert pool.resets == [[0, 1]] * 3


def test_reset_forgets_what_the_limit_was_about_to_cut() -> None:
    pool, spec = Counting(2), cart_pole().spec
    env = VectorEnv([EnvGroup(pool, spec, 2, max_episode_steps=1)], spec)
    env.reset()
    assert env.step(np.zeros(2, np.int64)).truncated.all()
    env.reset()
    assert env.step(np.zeros(2, np.int64)).reward.all()
    assert len(pool.resets) == 2


def test_imposed_limit_leaves_episodes_alone_that_end_by_themselves() -> None:
    env, limited = (make_vector_env("Catch-v0", 2, 0, max_episode_steps=limit) for limit in (None, 10))
    assert np.array_equal(env.reset(), limited.reset())
    for _ in range(25):
        plain, other = env.step(np.ones(2, np.int64)), limited.step(np.ones(2, np.int64))
        for name in ("obs", "reward", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))


def test_reset_starts_again_without_dummies() -> None:
    env = make_vector_env("Pendulum-v1", 2, 0, max_episode_steps=1)
    env.reset()
    assert env.step(zeros(env)).truncated.all()
    env.reset()
    assert env.step(zeros(env)).valid.all()


def test_same_seed_gives_the_same_episodes_on_any_number_of_threads() -> None:
    trajectories = []
    for num_threads in (1, 3):
        env = cart_pole(num_threads=num_threads)
        rows = [env.reset(), *(env.step(zeros(env)).obs for _ in range(40))]
        trajectories.append(np.stack(rows))
    np.testing.assert_array_equal(*trajectories)
    assert not np.array_equal(cart_pole(seed=6).reset(), trajectories[0][0])


def test_environment_i_is_seeded_with_seed_plus_i() -> None:
    np.testing.assert_array_equal(cart_pole(seed=5).reset()[1:], cart_pole(2, seed=6).reset())


# -- actions


@pytest.mark.parametrize(
    "actions",
    [
        np.zeros(2, np.int64),
        np.zeros((3, 1), np.int64),
        np.zeros(3, np.float32),
        np.array([0, 1, 2]),
        np.array([0, -1, 1]),
        [0, 0, 0],
    ],
    ids=["too few", "one dimension too many", "floats", "too large", "negative", "a list"],
)
def test_wrong_discrete_action_is_refused_before_envpool_sees_it(actions: Any) -> None:
    env, spy = spied(cart_pole())
    env.reset()
    with pytest.raises(ValueError, match=r"^CartPole-v1 actions: got .*; expected .*\. Nothing was stepped\.$"):
        env.step(actions)
    assert spy.actions == []


def test_shape_is_checked_at_every_step_not_only_the_first() -> None:
    env, spy = spied(make_vector_env("HalfCheetah-v4", 2, 0))
    env.reset()
    env.step(zeros(env))
    with pytest.raises(ValueError, match=r"got shape \(2, 3\); expected \(2, 6\)"):
        env.step(np.zeros((2, 3), np.float32))
    assert len(spy.actions) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_action_that_is_not_finite_is_refused_before_envpool_sees_it(bad: float) -> None:
    env, spy = spied(make_vector_env("Pendulum-v1", 3, 0))
    env.reset()
    with pytest.raises(DivergenceError, match=r"Pendulum-v1 actions: got environment 1 not finite"):
        env.step(np.array([[0.0], [bad], [0.0]], np.float32))
    assert spy.actions == []


def test_each_dimension_of_a_multi_discrete_action_has_its_own_range() -> None:
    env = make_vector_env("RubiksCube-v0", 1, 0)
    env.reset()
    env.step(np.array([[5, 0, 2]]))
    with pytest.raises(ValueError, match="environment 0 out of range"):
        env.step(np.array([[0, 1, 0]]))


def test_actions_arrive_in_envpools_dtype_and_within_bounds() -> None:
    env, spy = spied(make_vector_env("Pendulum-v1", 3, 0))
    env.reset()
    env.step(np.array([[5.0], [-7.0], [0.5]], np.float64))
    assert (spy.actions[0].dtype, spy.actions[0].ravel().tolist()) == (np.float32, [2.0, -2.0, 0.5])


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected reset\(\) first"):
        cart_pole().step(np.zeros(ONE_AT_A_TIME, np.int64))


# -- refusals, cures, defaults


def test_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(TaskError, match=r"got 'cartpole-v2'; .*CartPole-v1"):
        make_vector_env("cartpole-v2", 1, 0)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("TicTacToe-v1", "2 players"),
        ("Go9x9-v1", "2 players"),
    ],
)
def test_task_that_is_not_supported_says_why_and_what_is(task: str, reason: str) -> None:
    with pytest.raises(TaskError, match=rf"got '{task}', which has .*{reason}.*Supported are") as caught:
        make_vector_env(task, 1, 0)
    assert "\n" not in str(caught.value)


def test_task_whose_libraries_are_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_qt(*_: object, **__: object) -> None:
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.")

    monkeypatch.setattr(envpool, "make_spec", no_qt)
    with pytest.raises(MissingError, match="requires the system Qt 5"):
        make_vector_env("CoinrunEasy-v0", 1, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"frame_skp": 2}}, r"got 'frame_skp'; expected one of .*Did you mean frame_skip\?"),
        ({"options": {"num_envs": 2}}, r"expected it as environment\.num_envs"),
        ({"options": {"max_num_players": 2}}, "got 'max_num_players'; expected one of"),
        ({"options": {"frame_skip": "many"}}, r"got .*frame_skip='many'.*It says"),
        ({"num_envs": 0}, r"environment\.num_envs: got 0; expected at least 1"),
        ({"num_threads": -1}, r"environment\.num_threads: got -1"),
        ({"seed": 2**31 - 1}, "environment seed: got 2147483647"),
        ({"num_envs": 4, "num_groups": 3}, r"num_groups: got 3; expected a divisor of num_envs, 4"),
        ({"max_episode_steps": 0}, r"environment\.max_episode_steps: got 0"),
    ],
)
def test_setting_that_cannot_be_used_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_vector_env("Pong-v5", **{"num_envs": 1, "seed": 0} | settings)
    assert "\n" not in str(caught.value)


def test_option_reaches_envpool() -> None:
    env = make_vector_env("CheetahRun-v1", 1, 0, options={"frame_skip": 3})
    assert pool_of(env).config["frame_skip"] == 3


def test_sokoban_has_its_many_levels_and_not_the_one_it_falls_back_to() -> None:
    levels = make_vector_env("Sokoban-v0", 32, 0).reset()
    assert len(np.unique(levels, axis=0)) > 16


def test_light_tasks_get_one_thread_and_others_the_cores() -> None:
    assert pool_of(cart_pole(8)).config["num_threads"] == 1
    assert 1 <= pool_of(make_vector_env("Hopper-v4", 2, 0)).config["num_threads"] <= 2
    assert pool_of(cart_pole(8, num_threads=2)).config["num_threads"] == 2
