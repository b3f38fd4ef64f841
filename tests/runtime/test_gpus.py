"""What is told of GPUs, by a pynvml that is made up: there need be none where the tests run."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace

import pytest

from slipway_runtime import gpus as module
from slipway_runtime.gpus import Gpu, gpus

Nvml = Callable[..., SimpleNamespace]


class NVMLError(Exception):
    pass


def refuse(*_: object) -> None:
    raise NVMLError


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    """Puts a pynvml in place that has as many GPUs as asked for; its functions can be replaced."""

    def install(count: int, **functions: object) -> SimpleNamespace:
        calls = SimpleNamespace(inits=0)

        def init() -> None:
            calls.inits += 1

        fake = ModuleType("pynvml")
        vars(fake).update(
            NVMLError=NVMLError,
            nvmlInit=init,
            nvmlDeviceGetCount=lambda: count,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 << 30, used=handle << 30),
            nvmlDeviceGetPowerUsage=lambda handle: 250_500,
            nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=37),
            nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
            **functions,
        )
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return calls

    module._handles.cache_clear()
    yield install
    module._handles.cache_clear()


def test_every_gpu_is_told_in_the_units_of_the_metrics(nvml: Nvml) -> None:
    nvml(2)
    assert gpus() == [Gpu("GPU-0", 0.37, 80 << 30, 0, 250.5), Gpu("GPU-1", 0.37, 80 << 30, 1 << 30, 250.5)]


def test_nvml_is_opened_once(nvml: Nvml) -> None:
    calls = nvml(1)
    gpus()
    gpus()
    assert calls.inits == 1


def test_without_a_driver_there_are_none(nvml: Nvml) -> None:
    nvml(1)
    vars(sys.modules["pynvml"])["nvmlInit"] = refuse
    assert gpus() == []


def test_a_part_of_a_gpu_tells_what_it_can(nvml: Nvml) -> None:
    nvml(1)
    vars(sys.modules["pynvml"]).update(nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetUtilizationRates=refuse)
    assert gpus() == [Gpu("GPU-0", 0.0, 80 << 30, 0, 0.0)]
