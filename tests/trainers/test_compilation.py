"""Compiled and captured code does what plain code does; what compiles is run by `nox -s compile` only."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.compilation import (
    LEAST_TIMESTEPS,
    PLAIN,
    CompileWish,
    Execution,
    GraphedCall,
    compiled,
    resolve_execution,
)
from trainers.config import PpoConfig
from trainers.envs import make_vector_env
from trainers.ppo import Ppo, UpdateMetrics
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
COMPILED = Execution(is_compiled=True, uses_graphs=False)
NUM_ENVS, HORIZON = 8, 16

# torch's compiler uses what torch calls old, and has remarks of its own
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::UserWarning:torch")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def resolved(wish: CompileWish, device: torch.device, **changes: Any) -> Execution:
    asked = {"timesteps": 1, "is_image": False, "wants_graphs": True, "is_alone": True} | changes
    return resolve_execution(wish, device, **asked)


@pytest.mark.parametrize(
    ("device", "timesteps", "is_image", "is_compiled"),
    [
        (CPU, LEAST_TIMESTEPS - 1, False, False),
        (CPU, LEAST_TIMESTEPS, False, True),
        (CPU, LEAST_TIMESTEPS, True, False),
        (CUDA, LEAST_TIMESTEPS - 1, False, False),
        (CUDA, LEAST_TIMESTEPS, True, True),
    ],
)
def test_auto_compiles_where_it_pays(device: torch.device, timesteps: int, is_image: bool, is_compiled: bool) -> None:
    assert resolved("auto", device, timesteps=timesteps, is_image=is_image).is_compiled == is_compiled


@pytest.mark.parametrize(("wish", "expected"), [("none", PLAIN), ("default", COMPILED), ("reduce-overhead", COMPILED)])
def test_wish_is_obeyed(wish: CompileWish, expected: Execution) -> None:
    assert resolved(wish, CPU) == expected


@pytest.mark.parametrize(
    ("wish", "wants_graphs", "uses_graphs"),
    [("none", True, True), ("default", True, True), ("default", False, False), ("reduce-overhead", False, True)],
)
def test_graphs_are_captured_on_a_gpu_if_they_are_asked_for(
    wish: CompileWish, wants_graphs: bool, uses_graphs: bool
) -> None:
    assert resolved(wish, CUDA, wants_graphs=wants_graphs).uses_graphs == uses_graphs


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_steps_of_several_processes_are_plain_whatever_is_asked_for(device: torch.device) -> None:
    assert resolved("default", device, is_alone=False) == PLAIN


def test_execution_is_plain_if_it_is_neither_compiled_nor_captured() -> None:
    cases = [PLAIN, COMPILED, Execution(is_compiled=False, uses_graphs=True)]
    assert [execution.is_plain for execution in cases] == [True, False, False]


def test_what_torch_cannot_compile_runs_as_it_is_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, not_compiled: list[str]
) -> None:
    def refuse(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("PassManager::run failed\n")

    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_how: real_compile(function, backend=refuse))
    double = compiled(Scale(2.0).apply, COMPILED, CPU)
    assert [double(torch.ones(2)).tolist() for _ in range(3)] == [[2.0, 2.0]] * 3
    said = not_compiled.pop()
    assert said.startswith(f"torch {torch.__version__} cannot compile Scale.apply and it runs as it is, more slowly: ")
    assert "RuntimeError: PassManager::run failed. --hardware.compile none" in said


def test_error_of_the_function_itself_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_how: real_compile(function, backend="eager"))
    with pytest.raises(TypeError):
        compiled(Scale(2.0).apply, COMPILED, CPU)(1, 2)


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_without_compilation_the_method_is_itself() -> None:
    scale = Scale(2.0)
    assert compiled(scale.apply, PLAIN, CPU) == scale.apply


def config(
    mode: str, task: str, environment: dict[str, Any], architecture: dict[str, Any] | None = None, **hardware: Any
) -> PpoConfig:
    return PpoConfig.model_validate(
        {
            "environment": {"task": task, "num_envs": NUM_ENVS} | environment,
            "architecture": architecture or {},
            "training_core": {"horizon": HORIZON, "num_epochs": 2, "total_timesteps": 10_000, "entropy_coef": 0.01},
            "hardware": {"compile": mode} | hardware,
        }
    )


def updated(settings: PpoConfig, device: torch.device) -> tuple[Tensor, UpdateMetrics]:
    """The weights and metrics after an update."""
    seeds, environment = spawn_seeds(1), settings.environment
    env = make_vector_env(environment.task, environment.num_envs, seeds.environment, num_groups=environment.num_groups)
    ppo = Ppo(env.spec, settings, Runtime(device, seeds))
    storage = ppo.make_storage(env.num_envs)
    collect(ppo, env, storage, EpisodeStatistics(env.num_envs))
    metrics = ppo.update(storage, 0.0)
    return torch.cat([parameter.detach().cpu().flatten() for parameter in ppo.network.parameters()]), metrics


def assert_alike(a: tuple[Tensor, UpdateMetrics], b: tuple[Tensor, UpdateMetrics], atol: float = 1e-5) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=atol)
    torch.testing.assert_close(torch.tensor(a[1]), torch.tensor(b[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.compile
@pytest.mark.timeout(900)
@compiles
@pytest.mark.parametrize(
    ("task", "environment"),
    [
        ("CartPole-v1", {}),  # with dummies from the first rollout on: minibatches are filled up
        ("HalfCheetah-v4", {"normalize_obs": True, "normalize_reward": True, "num_groups": 2}),
        ("Maze-v0", {}),
    ],
)
def test_compiled_updates_are_those_of_plain_code(task: str, environment: dict[str, Any]) -> None:
    assert_alike(*(updated(config(mode, task, environment), CPU) for mode in ("none", "default")))


@pytest.mark.parametrize("architecture", [{}, {"shared": True}, {"activation": "relu", "hidden_sizes": [16]}])
@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.usefixtures("quick_compiler")
def test_what_would_be_compiled_computes_what_plain_code_does(task: str, architecture: dict[str, Any]) -> None:
    assert_alike(*(updated(config(mode, task, {}, architecture), CPU) for mode in ("none", "default")))


@pytest.mark.compile
@pytest.mark.timeout(900)
@compiles
def test_objects_of_one_class_do_not_share_what_is_compiled() -> None:
    double, triple = (compiled(Scale(factor).apply, COMPILED, CPU) for factor in (2.0, 3.0))
    x = torch.ones(4)
    assert (double(x).tolist(), triple(x).tolist()) == ([2.0] * 4, [3.0] * 4)
    assert double(torch.ones(5)).tolist() == [2.0] * 5  # another shape is compiled anew


@pytest.mark.gpu
@needs_cuda
@pytest.mark.timeout(900)
@compiles
@pytest.mark.parametrize("mode", ["none", "default"])
@pytest.mark.parametrize(
    ("task", "environment", "architecture", "atol"),
    [
        ("CartPole-v1", {"num_groups": 2}, {}, 1e-5),
        ("HalfCheetah-v4", {}, {}, 1e-5),
        # Adam makes a whole step (3e-3) of either sign out of what rounding has left of a gradient of zero
        ("Pong-v5", {}, {"hidden_sizes": [64], "activation": "relu", "shared": True}, 3e-3),
    ],
)
def test_captured_updates_are_those_of_plain_code(
    mode: str,
    task: str,
    environment: dict[str, Any],
    architecture: dict[str, Any],
    atol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)  # as another test may have left it
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # one update: most of its steps are replays, and a second one would learn from other actions
    plain = updated(config("none", task, environment, architecture, cuda_graphs=False), CUDA)
    assert_alike(plain, updated(config(mode, task, environment, architecture), CUDA), atol)


@pytest.mark.gpu
@needs_cuda
def test_captured_call_reads_new_inputs_and_keeps_its_side_effects() -> None:
    total = torch.zeros(3, device="cuda")
    call = GraphedCall(lambda x: total.add_(x).clone())
    outputs = [call(torch.full((3,), float(i), device="cuda")).tolist()[0] for i in range(1, 8)]
    assert outputs == [1, 3, 6, 10, 15, 21, 28]
