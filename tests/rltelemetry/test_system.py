"""System metrics: MLflow's own keys, and a part that fails is left out."""

import sys
import types
from typing import Any

import pytest

pytest.importorskip("psutil")

from rltelemetry.system import SystemSampler

CPU = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
}
DISK = {"system/disk_usage_percentage", "system/disk_usage_megabytes", "system/disk_available_megabytes"}
NETWORK = {"system/network_receive_megabytes", "system/network_transmit_megabytes"}


def test_sample_has_mlflows_keys_and_plausible_values() -> None:
    sample = SystemSampler().sample()
    assert sample.keys() >= CPU | DISK | NETWORK
    assert 0 <= sample["system/cpu_utilization_percentage"] <= 100
    assert 0 < sample["system/system_memory_usage_percentage"] < 100
    assert sample["system/disk_available_megabytes"] >= 0
    assert all(type(value) is float for value in sample.values())


def test_network_counts_from_the_start_of_the_run() -> None:
    sample = SystemSampler().sample()
    assert 0 <= sample["system/network_receive_megabytes"] < 1000


def test_part_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = SystemSampler()

    def fail(_path: str) -> Any:
        raise OSError("no such mount")

    monkeypatch.setattr(sampler._psutil, "disk_usage", fail)
    sample = sampler.sample()
    assert not DISK & sample.keys()
    assert sample.keys() >= CPU


class Nvml(types.SimpleNamespace):
    """NVIDIA's management library, of a machine with one GPU."""

    def __init__(self) -> None:
        super().__init__(
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda _gpu: types.SimpleNamespace(used=2e9, total=8e9),
            nvmlDeviceGetPowerUsage=lambda _gpu: 150_000,
            nvmlDeviceGetEnforcedPowerLimit=lambda _gpu: 300_000,
            nvmlDeviceGetUtilizationRates=lambda _gpu: types.SimpleNamespace(gpu=37),
        )


def test_gpus_have_mlflows_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    sample = {key: value for key, value in SystemSampler().sample().items() if "gpu_" in key}
    assert sample == {
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_memory_usage_megabytes": 2000.0,
        "system/gpu_0_utilization_percentage": 37.0,
        "system/gpu_0_power_usage_watts": 150.0,
        "system/gpu_0_power_usage_percentage": 50.0,
    }


def test_gpu_that_falls_off_the_bus_costs_only_its_own_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    sampler = SystemSampler()

    def lost(_gpu: int) -> Any:
        raise RuntimeError("GPU is lost")

    nvml.nvmlDeviceGetMemoryInfo = lost
    sample = sampler.sample()
    assert not any("gpu_" in key for key in sample)
    assert sample.keys() >= CPU
