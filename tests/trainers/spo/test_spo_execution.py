"""However SPO's functions are executed, they compute the same: by autograd, as functions, compiled, captured."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from spo_parts import Parts, weights

from trainers.compilation import NUM_WARMUPS, GraphedCall
from trainers.evaluation import run_episodes
from trainers.rollout import collect
from trainers.spo.step import Batch

CASES = [("CartPole-v1", "particles"), ("CartPole-v1", "tree"), ("Pendulum-v1", "auto")]

# torch's compiler uses what torch calls old, and has remarks of its own
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::UserWarning:torch")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def executed(task: str, mode: str, **hardware: Any) -> Parts:
    return Parts(task, search={"mode": mode}, hardware=hardware)


def batches(parts: Parts) -> list[Batch]:
    """Minibatches of a first rollout."""
    collect(parts.spo, parts.env, parts.storage, parts.episodes)
    return list(parts.spo._batches.draw(parts.spo._keep(parts.storage)))


def assert_alike(one: Parts, other: Parts) -> None:
    """Within what another order of sums does."""
    for mine, theirs in zip(one.found, other.found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights(one.spo), weights(other.spo), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_step_as_a_function_moves_everything_as_the_step_by_autograd_does(task: str, adaptive: bool) -> None:
    one, other = (Parts(task, spo={"adaptive_temperature": adaptive}) for _ in range(2))
    for mine, theirs in zip(batches(one), batches(other), strict=True):
        torch.testing.assert_close(one.spo._step.by_autograd(mine), other.spo._step.by_function(*theirs))
    torch.testing.assert_close(weights(one.spo), weights(other.spo))


@pytest.mark.parametrize(("task", "mode"), CASES)
@pytest.mark.usefixtures("quick_compiler")
def test_compiled_learner_agrees_with_the_plain_one(task: str, mode: str) -> None:
    plain, fast = (executed(task, mode, compile=how) for how in ("none", "default"))
    for parts in (plain, fast):
        parts.update()
    assert_alike(plain, fast)


@pytest.mark.compile
@pytest.mark.timeout(900)
@compiles
@pytest.mark.parametrize(("task", "mode"), CASES)
def test_what_is_really_compiled_searches_and_learns_as_plain_code_does(task: str, mode: str) -> None:
    plain, fast = (executed(task, mode, compile=how) for how in ("none", "default"))
    for parts in (plain, fast):
        parts.update()
    assert_alike(plain, fast)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("task", "mode"), CASES)
def test_captured_search_finds_what_the_plain_one_finds_bit_for_bit(task: str, mode: str) -> None:
    plain, captured = (executed(task, mode, device="cuda", compile="none", cuda_graphs=how) for how in (False, True))
    for parts in (plain, captured):
        collect(parts.spo, parts.env, parts.storage, parts.episodes)
    assert plain.storage.horizon > NUM_WARMUPS, "the last searches are replays"
    for mine, theirs in zip(plain.found, captured.found, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(plain.storage.action, captured.storage.action)


@pytest.mark.gpu
@needs_cuda
# of several particles that share an action, the gradients are summed in whatever order
@pytest.mark.parametrize(("task", "mode"), CASES[1:])
def test_captured_step_learns_what_the_plain_one_learns_bit_for_bit(task: str, mode: str) -> None:
    plain, captured = (executed(task, mode, device="cuda", compile="none", cuda_graphs=False) for _ in range(2))
    graphed = GraphedCall(captured.spo._step.by_function)
    for mine, theirs in zip(2 * batches(plain), 2 * batches(captured), strict=True):
        assert torch.equal(plain.spo._step.by_function(*mine), graphed(*theirs))
    assert torch.equal(weights(plain.spo), weights(captured.spo))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("targets", ["cached", "sequences"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize(("task", "mode"), CASES)
def test_neither_search_nor_gradient_steps_wait_for_the_gpu(
    task: str,
    mode: str,
    cuda_graphs: bool,
    targets: str,
    without_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    hardware = {"device": "cuda", "compile": "none", "cuda_graphs": cuda_graphs}
    parts = Parts(task, search={"mode": mode}, hardware=hardware, spo={"targets": targets, "sequence_length": 8})
    parts.update(2)  # graphs are captured by then, which does wait
    with without_sync():
        with torch.inference_mode():
            parts.spo.begin_rollout(parts.storage)
            parts.spo.act(parts.storage, 0, slice(None))
        for batch in parts.spo._batches.draw(parts.spo._keep(parts.storage)):
            parts.spo._take_step(batch)
        parts.spo._follow()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("task", "mode"), CASES)
def test_captured_evaluations_are_those_of_plain_code(task: str, mode: str) -> None:
    returns = []
    for how in (False, True):
        parts = executed(task, mode, device="cuda", compile="none", cuda_graphs=how)
        parts.update()
        for _ in range(2):  # all of the second one is replayed
            summary = run_episodes(parts.spo.deterministic_policy(), parts.make_env(99, 3), 3, 20)
            returns.append(summary)
    assert returns[0] == returns[1] == returns[2] == returns[3]
