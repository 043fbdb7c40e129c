import random

import numpy as np
import pytest
import torch

from trainers.config import HardwareConfig
from trainers.errors import MissingError
from trainers.ranks import ALONE, Ranks
from trainers.runtime import Seeds, prepare, resolve_device, seed_after, spawn_seeds


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> "Gpus":
    return Gpus(monkeypatch)


class Gpus:
    """A machine with so many GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def have(self, number: int) -> None:
        self._patch.setattr(torch.cuda, "is_available", lambda: number > 0)
        self._patch.setattr(torch.cuda, "device_count", lambda: number)


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, "cpu"), (1, "cuda"), (8, "cuda")])
def test_auto_takes_cuda_where_there_is_one(gpus: Gpus, num_gpus: int, expected: str) -> None:
    gpus.have(num_gpus)
    assert resolve_device("auto") == torch.device(expected)


def test_cpu_stays_cpu_beside_a_gpu(gpus: Gpus) -> None:
    gpus.have(1)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_can_be_chosen_by_number(gpus: Gpus) -> None:
    gpus.have(2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(("num_gpus", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_absent_gpu_is_missing_with_exit_code_3(gpus: Gpus, num_gpus: int, name: str) -> None:
    gpus.have(num_gpus)
    with pytest.raises(
        MissingError, match=f"got '{name}'; expected a GPU .+ finds {num_gpus}. Use --device cpu"
    ) as caught:
        resolve_device(name)
    assert caught.value.exit_code == 3


def test_sub_seeds_follow_from_the_seed() -> None:
    assert spawn_seeds(7) == spawn_seeds(7)


def test_sub_seeds_of_neighbouring_seeds_have_nothing_in_common() -> None:
    drawn = [sub_seed for seed in range(100) for sub_seed in spawn_seeds(seed)]
    assert len(set(drawn)) == len(drawn) == 100 * len(Seeds._fields)


def test_sub_seeds_leave_room_for_one_per_environment() -> None:
    drawn = [sub_seed for seed in range(1000) for sub_seed in spawn_seeds(seed)]
    assert min(drawn) >= 0
    assert 2**29 < max(drawn) < 2**30


def test_environments_that_start_anew_have_seeds_that_depend_on_both_numbers_alone() -> None:
    seeds = [seed_after(seed, update) for seed in range(30) for update in range(1, 31)]
    assert len(set(seeds)) == 900
    assert seed_after(7, 5) == seeds[7 * 30 + 4]
    assert min(seeds) >= 0
    assert 2**29 < max(seeds) < 2**30


def test_first_environments_have_the_seed_itself() -> None:
    assert seed_after(7, 0) == 7


def test_preparing_seeds_every_global_generator() -> None:
    draws = []
    for _ in range(2):
        prepare(HardwareConfig(device="cpu"), seed=3)
        draws.append((random.random(), float(np.random.random()), float(torch.rand(()))))
    assert draws[0] == draws[1]


def test_preparing_limits_torchs_threads() -> None:
    before = torch.get_num_threads()
    try:
        runtime = prepare(HardwareConfig(device="cpu", torch_threads=2), seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert runtime.device == torch.device("cpu")
    assert runtime.seeds == spawn_seeds(0)


def test_rank_takes_its_gpu_before_it_meets_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def join(device: torch.device) -> Ranks:
        seen.append(device)
        return ALONE

    monkeypatch.setattr("trainers.runtime.resolve_device", lambda *_: torch.device("cuda:1"))
    monkeypatch.setattr("trainers.runtime.join_ranks", join)
    monkeypatch.setattr("torch.cuda.set_device", seen.append)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda _: None)
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    prepare(HardwareConfig(), seed=0)
    assert seen == [1, torch.device("cuda:1")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tf32_is_on_for_cuda() -> None:
    prepare(HardwareConfig(device="cuda"), seed=0)
    assert torch.get_float32_matmul_precision() == "high"
