"""What a process uses of its machine: CPU and memory by psutil, its GPU by the driver's own library where there is a driver."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil


class ResourceMeter:
    """Measures this process. `gpu` is the UUID of its GPU, with or without `GPU-` in front; empty where it has none.

    Without a driver, without the right to ask it, and for a number that a GPU doesn't tell, nothing is measured.
    """

    def __init__(self, gpu: str = "") -> None:
        self._process = psutil.Process()
        self._before = (time.monotonic(), self._cpu_seconds())
        self._gpu: Any = None
        self.facts: dict[str, Any] = {"pid": self._process.pid, "host": socket.gethostname(), "gpu": ""}
        if gpu:
            self._open_gpu(gpu if gpu.startswith(("GPU-", "MIG-")) else f"GPU-{gpu}")

    def read(self) -> dict[str, float]:
        """Metrics by name, of now; CPU since the last call."""
        now, used = time.monotonic(), self._cpu_seconds()
        (began, before), self._before = self._before, (now, used)
        found = {
            "process_cpu": (used - before) / max(now - began, 1e-9),
            "process_memory": float(self._process.memory_info().rss),
        }
        return found | self._read_gpu() if self._gpu is not None else found

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _open_gpu(self, uuid: str) -> None:
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self.facts["gpu"] = str(pynvml.nvmlDeviceGetName(handle))
            self.facts["gpu_memory_total"] = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            self._gpu = handle

    def _read_gpu(self) -> dict[str, float]:
        import pynvml

        questions: dict[str, Callable[[Any], float]] = {
            "gpu_utilisation": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            "gpu_memory": lambda gpu: float(pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
            "gpu_power": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "gpu_temperature": lambda gpu: float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)),
        }
        found = {}
        for name, ask in questions.items():
            with contextlib.suppress(pynvml.NVMLError):
                found[name] = ask(self._gpu)
        return found
