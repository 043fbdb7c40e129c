"""System metrics under MLflow's own keys, so that its "System metrics" tab shows them.

psutil (and NVIDIA's pynvml for GPUs) are used when they are installed; without psutil there are no samples.
"""

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["SystemSampler"]

MEGABYTE = 1e6


class SystemSampler:
    """Samples CPU, memory, disk, network and GPUs of this machine.

    Raises:
        ImportError: psutil is not installed.
    """

    def __init__(self) -> None:
        self._psutil: Any = importlib.import_module("psutil")
        self._network_at_start = self._network()
        self._psutil.cpu_percent()  # the first call only sets the point from which the next one measures
        self._gpus = _GpuSampler.open()

    def sample(self) -> dict[str, float]:
        """Return one sample; a part that fails is left out."""
        sample: dict[str, float] = {}
        for part in (self._cpu_and_memory, self._disk, self._network_since_start, self._gpus):
            try:
                sample |= part()
            except Exception:
                continue
        return {f"system/{key}": float(value) for key, value in sample.items()}

    def _cpu_and_memory(self) -> dict[str, float]:
        memory = self._psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
        }

    def _disk(self) -> dict[str, float]:
        disk = self._psutil.disk_usage("/")
        return {
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / MEGABYTE,
            "disk_available_megabytes": disk.free / MEGABYTE,
        }

    def _network(self) -> tuple[float, float]:
        counters = self._psutil.net_io_counters()
        return (counters.bytes_recv, counters.bytes_sent) if counters else (0.0, 0.0)

    def _network_since_start(self) -> dict[str, float]:
        received, sent = self._network()
        return {
            "network_receive_megabytes": (received - self._network_at_start[0]) / MEGABYTE,
            "network_transmit_megabytes": (sent - self._network_at_start[1]) / MEGABYTE,
        }


class _GpuSampler:
    """NVIDIA GPUs through their management library; none without it."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    @classmethod
    def open(cls) -> Callable[[], dict[str, float]]:
        try:
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except Exception:
            return dict
        return cls(nvml, handles).sample

    def sample(self) -> dict[str, float]:
        sample: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            power_w = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            limit_w = self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            sample |= {
                f"gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
                f"gpu_{index}_memory_usage_megabytes": memory.used / MEGABYTE,
                f"gpu_{index}_utilization_percentage": self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
                f"gpu_{index}_power_usage_watts": power_w,
                f"gpu_{index}_power_usage_percentage": 100 * power_w / limit_w,
            }
        return sample
