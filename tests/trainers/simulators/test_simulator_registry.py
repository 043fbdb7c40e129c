import sys
from pathlib import Path
from typing import Any

import envpool
import pytest
import torch

from trainers.errors import MissingError, TaskError
from trainers.observations import Leaf, ObsLayout
from trainers.simulators import SIMULATED_TASKS, Simulator, make_simulator

CPU = torch.device("cpu")
WIDE_SPEEDS = {"velocity_min": -1000.0, "velocity_max": 1000.0}


def config_of(task: str, **options: Any) -> tuple[ObsLayout, dict[str, Any], Any]:
    spec = envpool.make_spec(task, **options)
    leaves = [
        Leaf(tuple(name.replace(":", ".").split(".")), tuple(size for size in array.shape if size != -1))
        for name, array in spec.state_array_spec.items()
        if name.startswith("obs")
    ]
    return ObsLayout(tuple(leaves)), spec.config._asdict(), spec


def simulator_of(task: str, limit: int | None = None, **options: Any) -> Simulator:
    layout, config, _ = config_of(task, **options)
    return make_simulator(task, layout, config, CPU, limit)


def test_task_without_a_model_is_refused_with_the_reason_and_the_list() -> None:
    with pytest.raises(TaskError, match=r"got 'Pong-v5'.*no exact model.*Acrobot-v1, .*Walker2d-v5.*`ppo`") as refusal:
        make_simulator("Pong-v5", ObsLayout.vector(4), {}, CPU)
    assert refusal.value.exit_code == 2


def test_slip_of_the_pen_is_corrected() -> None:
    with pytest.raises(TaskError, match="Did you mean CartPole-v1"):
        make_simulator("Cartpole-v1", ObsLayout.vector(4), {}, CPU)


@pytest.mark.parametrize(
    ("task", "option", "value"),
    [
        ("Game2048-v1", "game2048_add_random_cell", False),
        ("Game2048-v1", "game2048_replay_boards", "1,1"),
        ("HalfCheetah-v4", "frame_stack", 4),
        ("Hopper-v4", "exclude_current_positions_from_observation", False),
        ("Ant-v4", "use_contact_force", True),
        ("TSP-v1", "tsp_distance_matrix", "1,2"),
        ("BinPack-v2", "bin_pack_replay_ems_x1", "1"),
        ("InvertedPendulum-v4", "healthy_reward", 5.0),
        ("InvertedPendulum-v5", "healthy_reward", 5.0),
    ],
)
def test_option_that_the_model_does_not_follow_is_refused(task: str, option: str, value: Any) -> None:
    with pytest.raises(TaskError, match=f"{option}={value!r}"):
        simulator_of(task, **{option: value})


@pytest.mark.parametrize("task", ["Hopper-v4", "Hopper-v5", "Walker2d-v4", "Walker2d-v5"])
@pytest.mark.parametrize("options", [{}, {"velocity_min": -1000.0}, {"velocity_max": 1000.0}])
def test_speeds_that_are_shown_cut_off_are_refused_with_the_options_that_help(
    task: str, options: dict[str, float]
) -> None:
    low, high = options.get("velocity_min", -10.0), options.get("velocity_max", 10.0)
    with pytest.raises(
        TaskError,
        match=rf"got velocity_min={low:g} and velocity_max={high:g}; expected at most -1000 and at least 1000.*"
        r"Set environment.options to {velocity_min: -1000, velocity_max: 1000}",
    ):
        simulator_of(task, **options)


def test_wide_speeds_are_restored_as_they_are() -> None:
    simulator = simulator_of("Walker2d-v4", **WIDE_SPEEDS)
    obs = torch.full((1, 17), 40.0)
    assert torch.equal(simulator.observe(simulator.restore(obs, torch.zeros(1, dtype=torch.int32))), obs)


def test_missing_physics_are_noticed_when_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingError, match=r"^mujoco is not installed.*pip install 'rltelemetry\[mujoco\]'"):
        simulator_of("HalfCheetah-v4")


def test_alias_of_jumanji_is_known() -> None:
    assert simulator_of("Jumanji/Maze-v0").num_noise == 0


@pytest.mark.parametrize(
    ("task", "limit", "options", "expected"),
    [
        ("CartPole-v1", None, {}, 500),
        ("CartPole-v1", 100, {}, 100),
        ("CartPole-v1", None, {"max_episode_steps": 30}, 30),
        ("SlidingTilePuzzle-v0", None, {}, None),
        ("SlidingTilePuzzle-v0", 50, {}, 50),
        ("Sokoban-v0", None, {}, 120),
    ],
)
def test_time_limit_is_the_nearest(task: str, limit: int | None, options: dict[str, Any], expected: int | None) -> None:
    simulator = simulator_of(task, limit, **options)
    layout, _, _ = config_of(task)
    elapsed = torch.arange(600, dtype=torch.int32)
    state = simulator.restore(torch.zeros(600, *layout.shape), elapsed)
    truncated = simulator.step(state, torch.zeros(600, dtype=torch.int64), torch.zeros(600, 0)).truncated
    first = int(truncated.int().argmax()) + 1 if truncated.any() else None
    assert first == expected


@pytest.mark.parametrize("task", SIMULATED_TASKS)
def test_model_can_be_stepped_from_any_state_whatever_it_means(task: str) -> None:
    base = {"base_path": str(Path(envpool.__file__).parent)} if "jumanji" in _family(task) else {}
    speeds = WIDE_SPEEDS if task.startswith(("Hopper", "Walker2d")) else {}
    layout, config, spec = config_of(task, **base, **speeds)
    simulator = make_simulator(task, layout, config, CPU)
    action = next(array for name, array in spec.action_array_spec.items() if not name.endswith("env_id"))
    generator = torch.Generator().manual_seed(0)
    state = simulator.restore(torch.zeros(16, *layout.shape), torch.zeros(16, dtype=torch.int32))
    for _ in range(60):
        noise = torch.rand(16, simulator.num_noise, generator=generator)
        taken = _some_action(action, generator)
        transition = simulator.step(state, taken, noise)
        state = transition.state
        assert simulator.observe(state).shape == (16, *layout.shape)
        assert simulator.observe(state).dtype == transition.reward.dtype == torch.float32
        assert transition.terminated.dtype == transition.truncated.dtype == torch.bool


def _family(task: str) -> str:
    return str(envpool.registration.registry.specs[task][0])


def _some_action(array: Any, generator: torch.Generator) -> torch.Tensor:
    high = torch.as_tensor(array.maximum).reshape(-1)
    chance = torch.rand(16, len(high), generator=generator)
    if str(array.dtype).find("float") >= 0:
        return (2 * chance - 1) * high
    sizes = high + 1
    if len(sizes) == 2:  # a joint choice
        return (chance[:, 0] * int(sizes.prod())).long()
    taken = (chance * sizes).long()
    return taken.squeeze(1) if len(sizes) == 1 else taken
