"""What a process uses of its machine, and a GPU's driver that is there, silent, or in part."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest

from mccore.host.resources import ResourceMeter


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A driver with one GPU, whose answers a test can change."""
    answers = SimpleNamespace(asked=[], power=301_500)

    def handle(uuid: str) -> str:
        answers.asked.append(uuid)
        return "handle"

    def power(_: str) -> int:
        if answers.power is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answers.power

    for name, function in {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetName": lambda _: "GPU of a test",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 << 30, used=5 << 30),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=25, memory=3),
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 61,
    }.items():
        monkeypatch.setattr(pynvml, name, function)
    return answers


def test_a_process_without_a_gpu() -> None:
    meter = ResourceMeter()
    sum(range(200_000))
    found = meter.read()
    assert set(found) == {"process_cpu", "process_memory"}
    assert found["process_memory"] > 1e6
    assert 0 <= found["process_cpu"] < 64
    assert meter.facts["gpu"] == ""


def test_a_gpu_is_asked_for_by_its_uuid(driver: SimpleNamespace) -> None:
    meter = ResourceMeter("12-34")
    found = meter.read()
    assert driver.asked == ["GPU-12-34"]
    assert (found["gpu_utilisation"], found["gpu_memory"]) == (0.25, float(5 << 30))
    assert (found["gpu_power"], found["gpu_temperature"]) == (301.5, 61.0)
    assert (meter.facts["gpu"], meter.facts["gpu_memory_total"]) == ("GPU of a test", 80 << 30)


def test_a_number_that_a_gpu_does_not_tell_is_left_out(driver: SimpleNamespace) -> None:
    driver.power = None
    found = ResourceMeter("12-34").read()
    assert "gpu_power" not in found
    assert "gpu_temperature" in found


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert set(ResourceMeter("12-34").read()) == {"process_cpu", "process_memory"}
