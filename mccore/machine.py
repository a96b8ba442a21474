"""What this machine has, and how fast it has been seen to train. No torch: commands that only look need none.

Training stages record the speed they reach in `machine.json` of the cache directory; estimates read it, and say whether they
rest on such a measurement or on an assumption.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mccore import paths
from mccore.errors import RunError
from mccore.files import write_atomic

DeviceKind = Literal["cpu", "cuda"]

# Dense bf16 peak in FLOP/s by a word of the GPU's name, from the vendors' data sheets; the longest word that fits counts.
_PEAKS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "GH200": 9.89e14,
    "H100": 9.89e14,
    "H100 PCIe": 7.56e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "RTX 5090": 2.09e14,
    "RTX 4090": 1.65e14,
    "RTX 3090": 7.1e13,
    "L4": 1.21e14,
    "A10": 1.25e14,
    "V100": 1.25e14,
    "T4": 6.5e13,
}
_ASSUMED_SHARE = 0.35  # of the peak
_FP32_SHARE = 0.25  # of the assumed bf16 speed
_UNKNOWN_GPU = 3e13
_ASSUMED_PER_CORE = 1.5e10  # fp32, small matrices


@dataclass(frozen=True)
class Accelerator:
    """A GPU as its driver describes it."""

    name: str
    memory_bytes: int
    driver: str = ""


@dataclass(frozen=True)
class Speed:
    """Achieved training FLOP/s of one device (a GPU, or all CPU cores together) and where the number comes from."""

    flops_per_second: float
    measured: bool
    source: str


@functools.cache
def accelerators() -> tuple[Accelerator, ...]:
    """The GPUs of this machine, from its driver's own tool; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    found = []
    for line in answer.stdout.splitlines():
        name, _, rest = line.partition(",")
        memory, _, driver = rest.partition(",")
        with contextlib.suppress(ValueError):
            found.append(Accelerator(name.strip(), int(float(memory)) << 20, driver.strip()))
    return tuple(found)


@functools.cache
def cpu_name() -> str:
    """The processor's own name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
        for line in info:
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_key(kind: DeviceKind, dtype: str, gpu_name: str = "") -> str:
    """What a speed is filed under: device and compute type. A GPU by its name, a CPU by its name and cores."""
    if kind == "cpu":
        return f"cpu / {cpu_name()} / {available_cores()} cores / {dtype}"
    if not gpu_name:
        found = accelerators()
        gpu_name = found[0].name if found else "unknown"
    return f"cuda / {gpu_name} / {dtype}"


def record_speed(key: str, flops_per_second: float) -> bool:
    """File the speed a training stage has reached on one device. False when the cache can't be written: it is only a cache."""
    speeds = _read_speeds()
    speeds[key] = {"flops_per_second": flops_per_second, "time": time.time()}
    try:
        write_atomic(_speeds_path(), json.dumps({"version": 1, "speeds": speeds}, indent=2) + "\n")
    except RunError:
        return False
    return True


def speed(kind: DeviceKind, dtype: str, gpu_name: str = "") -> Speed:
    """The training speed of one device of this machine: measured where a run has been here before, else assumed."""
    key = device_key(kind, dtype, gpu_name)
    entry = _read_speeds().get(key)
    value = entry.get("flops_per_second") if isinstance(entry, dict) else None
    if isinstance(value, int | float) and value > 0:
        return Speed(float(value), True, f"measured on this machine ({key})")
    if kind == "cpu":
        cores = available_cores()
        source = f"assumed: {_ASSUMED_PER_CORE / 1e9:.0f} GFLOP/s for each of {cores} cores"
        return Speed(_ASSUMED_PER_CORE * cores, False, source)
    name = gpu_name or (accelerators()[0].name if accelerators() else "unknown")
    peak = next((_PEAKS[word] for word in sorted(_PEAKS, key=len, reverse=True) if word in name), None)
    if peak is None:
        return Speed(_UNKNOWN_GPU, False, f"assumed: {_UNKNOWN_GPU / 1e12:.0f} TFLOP/s, {name} isn't in the table")
    share = _ASSUMED_SHARE * (1.0 if dtype == "bf16" else _FP32_SHARE)
    return Speed(share * peak, False, f"assumed: {share:.0%} of the {peak / 1e12:.0f} TFLOP/s peak of {name}")


def _speeds_path() -> Path:
    return paths.cache_dir() / "machine.json"


def _read_speeds() -> dict[str, Any]:
    try:
        content = json.loads(_speeds_path().read_bytes())
    except (OSError, ValueError):
        return {}
    speeds = content.get("speeds") if isinstance(content, dict) else None
    return speeds if isinstance(speeds, dict) else {}
