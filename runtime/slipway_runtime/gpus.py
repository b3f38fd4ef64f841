"""What NVML says about the GPUs of this container; nothing where there is none. Imports no torch."""

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    uuid: str
    utilization: float
    """0 to 1."""
    memory_total_bytes: int
    memory_used_bytes: int
    power_w: float


def gpus() -> list[Gpu]:
    """As of now. Some 100 µs for each."""
    return [_read(nvml, handle) for nvml, handle in _handles()]


@cache
def _handles() -> list[tuple[Any, Any]]:
    import pynvml  # noqa: PLC0415 - only when somebody asks

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    except pynvml.NVMLError:
        return []


def _read(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        power_w = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    except nvml.NVMLError:  # a part of a GPU (MIG) does not have it
        power_w = 0.0
    try:
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:
        utilization = 0.0
    return Gpu(str(nvml.nvmlDeviceGetUUID(handle)), utilization, int(memory.total), int(memory.used), power_w)
