"""Every model against the real envpool: one step from each live observation must agree, chance included.

Where chance is involved, what envpool did must be among what the model does for all possible noise.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envpool
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.observations import Leaf, ObsLayout
from trainers.simulators import SIMULATED_TASKS, Simulator, make_simulator
from trainers.simulators.mujoco import MUJOCO_TASKS

CPU = torch.device("cpu")
STICKY = 0.02
"""Probability with which an illegal action is tried."""
STRENGTH = 1.2
"""Of continuous actions, relative to their bounds, to which they are then clipped."""


@dataclass(frozen=True)
class Case:
    """What to play: where the defaults would take too long to show something, the options show it sooner."""

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 64
    num_steps: int = 60
    script: tuple[int, ...] = ()
    """What to do from the start of each episode on, over and over, in nine of ten cases."""
    has_assets: bool = True

    def __str__(self) -> str:
        return "-".join([self.task, *self.options])


WIDE_SPEEDS = {"velocity_min": -1000.0, "velocity_max": 1000.0}
SHORT = {"max_episode_steps": 7}
ONE_MOVE_LEFT = ",".join(map(str, [*range(1, 24), 0, 24]))
CASES = [
    *(Case(task) for task in SIMULATED_TASKS if task not in MUJOCO_TASKS),
    *(
        Case(task, WIDE_SPEEDS if model.clips_speed else {}, num_envs=16, num_steps=130)
        for task, model in MUJOCO_TASKS.items()
    ),
    *(Case(task, SHORT) for task in ("Acrobot-v1", "CartPole-v1", "Pendulum-v1", "Taxi-v3", "Sokoban-v0")),
    Case("Maze-v0", {"maze_agent_position": "8,8"}, num_steps=110),
    Case("RubiksCube-v0", {"rubiks_cube_num_scrambles": 1}, num_envs=32, num_steps=210),
    Case("RubiksCube-partly-scrambled-v0", {"rubiks_cube_num_scrambles": 1}),
    Case("SlidingTilePuzzle-v0", {"sliding_tile_initial_puzzle": ONE_MOVE_LEFT}),
    Case("SlidingTilePuzzle-v0", num_envs=8, num_steps=510),
    # without its assets, one level: four boxes in a row under four targets
    Case("Sokoban-v0", {"sokoban_level_index": 0}, num_steps=100, script=(0, 2, 1), has_assets=False),
    Case("Knapsack-v1", {"knapsack_total_budget": 2.0}),
]


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of an observation and of a reward."""

    obs: float = 0.0
    reward: float = 2e-6


TOLERANCES = {
    "CartPole": Tolerance(obs=1e-6),
    "MountainCar": Tolerance(obs=2e-7),
    "Pendulum": Tolerance(obs=2e-6, reward=1.5e-5),
    "Acrobot": Tolerance(obs=2e-6),
    # states come in float64 here, and are shown in float32
    "HalfCheetah": Tolerance(obs=2e-5),
    "Hopper": Tolerance(obs=1e-6),
    "InvertedPendulum": Tolerance(obs=1e-6),
    "Swimmer": Tolerance(obs=1e-6),
    "Walker2d": Tolerance(obs=2e-5),
    "Ant": Tolerance(obs=5e-5, reward=0.2),  # envpool measures the speed one integrator stage late
}


class Live:
    """envpool's environments, played at random, beside the simulator of the same task."""

    def __init__(self, case: Case) -> None:
        is_jumanji = "jumanji" in envpool.registration.registry.specs[case.task][0]
        assets = {"base_path": str(Path(envpool.__file__).parent)} if is_jumanji and case.has_assets else {}
        options = {**assets, **case.options}
        spec = envpool.make_spec(case.task, **options)
        self.case = case
        self.layout = ObsLayout(tuple(_leaves(spec)))
        self.dtype = np.float64 if case.task in MUJOCO_TASKS else np.float32
        self.simulator = make_simulator(case.task, self.layout, spec.config._asdict(), CPU)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium, of the precision of spaces that nobody asked for
            self._pool = envpool.make_gymnasium(case.task, num_envs=case.num_envs, seed=5, **options)
            assert self._pool.observation_space is not None
        self._action = next(array for name, array in spec.action_array_spec.items() if not name.endswith("env_id"))
        self._rng = np.random.default_rng(7)

    def play(self) -> "Iterator[Row]":
        obs = self._pack(self._pool.reset()[0])
        done, elapsed = np.zeros(len(obs), bool), np.zeros(len(obs), np.int32)
        for _ in range(self.case.num_steps):
            ours, theirs = self._choose(obs, elapsed)
            following, reward, terminated, truncated, _ = self._pool.step(theirs)
            following = self._pack(following)
            yield Row(obs, elapsed, ours, following, reward, terminated, truncated, ~done)
            elapsed = np.where(done, 0, elapsed + 1).astype(np.int32)
            obs, done = following, terminated | truncated

    def _choose(self, obs: NDArray[Any], elapsed: NDArray[np.int32]) -> tuple[torch.Tensor, NDArray[Any]]:
        shape = tuple(self._action.shape[1:] if self._action.shape and self._action.shape[0] == -1 else [])
        low, high = (np.broadcast_to(side, shape) for side in (self._action.minimum, self._action.maximum))
        dtype, count = np.dtype(self._action.dtype), len(obs)
        if dtype.kind == "f":
            theirs = np.clip(STRENGTH * self._rng.uniform(low, high, (count, *shape)), low, high).astype(dtype)
            return torch.from_numpy(theirs), theirs
        if any(leaf.path[-1] == "action_mask" for leaf in self.layout.leaves):
            mask = obs[:, self.layout.columns("obs", "action_mask")] > 0
            mask |= self._rng.random(mask.shape) < STICKY
            chosen = (mask * self._rng.random(mask.shape)).argmax(1)
            if shape:
                return torch.from_numpy(chosen), np.stack(np.unravel_index(chosen, high + 1), -1).astype(dtype)
        else:
            chosen = self._rng.integers(low, high + 1, (count, *shape))
        if self.case.script:
            is_free = self._rng.random(count) < 0.1
            chosen = np.where(is_free, chosen, np.array(self.case.script)[elapsed % len(self.case.script)])
        return torch.from_numpy(chosen), chosen.astype(dtype)

    def _pack(self, obs: Any) -> NDArray[Any]:
        parts = []
        for leaf in self.layout.leaves:
            array = obs
            for name in leaf.path[1:]:
                array = array[name] if isinstance(array, dict) else array
            parts.append(np.asarray(array).reshape(len(array), leaf.size).astype(self.dtype))
        return np.concatenate(parts, 1)


@dataclass(frozen=True)
class Row:
    """One real step of all environments; `is_known` leaves out those that were being reset."""

    obs: NDArray[Any]
    elapsed: NDArray[np.int32]
    action: torch.Tensor
    following: NDArray[Any]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_known: NDArray[np.bool_]


def _leaves(spec: Any) -> Iterator[Leaf]:
    for name, array in spec.state_array_spec.items():
        if name.startswith("obs"):
            shape = tuple(array.shape[1:] if array.shape and array.shape[0] == -1 else array.shape)
            yield Leaf(tuple(name.replace(":", ".").split(".")), shape)


def all_noise(simulator: Simulator) -> Iterator[list[float]]:
    """Noise that brings about every outcome of up to 15 equally probable places, and both kinds of tile."""
    places = [(index + 0.5) / 16 for index in range(16)]
    yield from map(list, itertools.product(*[places, [0.05, 0.5]][: simulator.num_noise]))


def disagreements(live: Live, row: Row, noise: list[float]) -> NDArray[np.bool_]:
    """Which environments went another way than the simulator does with this noise."""
    tolerance = next((value for name, value in TOLERANCES.items() if live.case.task.startswith(name)), Tolerance())
    state = live.simulator.restore(torch.from_numpy(row.obs), torch.from_numpy(row.elapsed))
    ours = live.simulator.step(state, row.action, torch.tensor([noise] * len(row.obs)).view(len(row.obs), len(noise)))
    done = row.terminated | row.truncated
    # a failure on the last step is truncation to envpool; the true end is known here
    is_other_end = (ours.terminated | ours.truncated).numpy() != done
    is_other_end |= (ours.terminated.numpy() != row.terminated) & ~row.truncated
    differs = np.abs(live.simulator.observe(ours.state).numpy() - row.following) > tolerance.obs
    if live.case.task == "Snake-v1":  # 143 places for a fruit: see the test of its own
        differs.reshape(len(differs), -1)[:, :720].reshape(-1, 144, 5)[row.reward > 0, :, 3] = False
    return is_other_end | differs.any(1) | (np.abs(ours.reward.numpy() - row.reward) > tolerance.reward)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_model_goes_where_envpool_goes(case: Case) -> None:
    live = Live(case)
    num_rows = num_ends = 0
    for row in live.play():
        wrong = row.is_known.copy()
        for noise in all_noise(live.simulator):
            wrong &= disagreements(live, row, noise)
        assert not wrong.any(), f"environment {np.flatnonzero(wrong)[0]}: {row.obs[wrong][0]}, {row.action[wrong][0]}"
        num_rows += int(row.is_known.sum())
        num_ends += int((row.terminated | row.truncated)[row.is_known].sum())
    assert num_rows > 1000
    if case.options:
        assert num_ends > 20, "the case does not show what it is there for"


def test_snake_puts_a_new_fruit_on_an_empty_cell_and_every_one_is_as_probable() -> None:
    live = Live(Case("Snake-v1", {"snake_head_position": "0,0", "snake_fruit_position": "0,1"}, num_envs=1))
    row = next(live.play())
    obs = torch.from_numpy(row.obs).repeat(20_000, 1)
    state = live.simulator.restore(obs, torch.zeros(len(obs), dtype=torch.int32))
    noise = torch.rand(len(obs), 1, generator=torch.Generator().manual_seed(0))
    after = live.simulator.observe(live.simulator.step(state, torch.ones(len(obs), dtype=torch.int64), noise).state)
    layers = after[:, :720].view(-1, 144, 5)
    assert int((layers[:, :, 3] * layers[:, :, 0]).sum()) == 0
    counts = layers[:, :, 3].sum(0)
    assert int((counts > 0).sum()) == 142  # all but the head's cell and the tail's
    expected = len(obs) / 142
    assert float(((counts[2:] - expected).square() / expected).sum()) < 142 + 5 * (2 * 142) ** 0.5


def test_2048_lets_a_four_appear_in_one_of_ten_cases() -> None:
    live = Live(Case("Game2048-v1", num_envs=1))
    row = next(live.play())
    obs = torch.from_numpy(row.obs).repeat(20_000, 1)
    obs[:, :16] = torch.tensor([1.0, 1, *[0] * 14])
    state = live.simulator.restore(obs, torch.zeros(len(obs), dtype=torch.int32))
    noise = torch.rand(len(obs), 2, generator=torch.Generator().manual_seed(0))
    after = live.simulator.observe(live.simulator.step(state, torch.full((len(obs),), 3), noise).state)[:, :16]
    assert set(after[:, 0].tolist()) == {2.0}
    assert float((after[:, 1:] == 2).any(1).float().mean()) == pytest.approx(0.1, abs=0.01)
    counts = (after[:, 1:] > 0).sum(0)
    assert float(counts.max() / counts.min()) < 1.2
