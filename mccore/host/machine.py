"""What this machine has, and how fast it has been seen to train. No torch: commands that only look need none.

Training stages record the speed they reach in `machine.json` of the cache directory; estimates read it, and say whether they
rest on such a measurement or on an assumption.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mccore.host import paths
from mccore.host.json_file import read_object

DeviceKind = Literal["cpu", "cuda"]

# Dense bf16 FLOP/s accumulating in fp32, from the makers' data sheets, by a part of the GPU's name; the longest that fits counts.
_PEAK_BF16 = {
    "B300": 2.25e15,
    "B200": 2.25e15,
    "H200": 9.89e14,
    "GH200": 9.89e14,
    "H100": 9.89e14,
    "H100 PCIe": 7.56e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L40": 1.81e14,
    "RTX 5090": 2.095e14,
    "RTX 4090": 1.652e14,
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


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bf16: without them bf16 is slower than fp32."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
        for line in info:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                return not {"avx512_bf16", "amx_bf16"}.isdisjoint(value.split())
    return False


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_key() -> str:
    """What a CPU's measured speed is kept under."""
    return f"{platform.machine()} cpu"


def peak_bf16(gpu_name: str) -> float | None:
    """FLOP/s that a GPU could reach in bf16, None for one that isn't in the table."""
    return next((_PEAK_BF16[part] for part in sorted(_PEAK_BF16, key=len, reverse=True) if part in gpu_name), None)


def speed(kind: DeviceKind, dtype: str, gpu_name: str = "") -> Speed:
    """The training speed of one device of this machine: measured where a run has been here before, else assumed."""
    if kind == "cuda" and not gpu_name:
        gpu_name = accelerators()[0].name if accelerators() else "unknown"
    measured = _measured(gpu_name if kind == "cuda" else cpu_key(), dtype, per_rank=kind == "cuda")
    if measured is not None:
        return measured
    if kind == "cpu":
        cores = available_cores()
        source = f"assumed: {_ASSUMED_PER_CORE / 1e9:.0f} GFLOP/s for each of {cores} cores"
        return Speed(_ASSUMED_PER_CORE * cores, False, source)
    peak = peak_bf16(gpu_name)
    if peak is None:
        return Speed(_UNKNOWN_GPU, False, f"assumed: {_UNKNOWN_GPU / 1e12:.0f} TFLOP/s, {gpu_name} isn't in the table")
    share = _ASSUMED_SHARE * (1.0 if dtype == "bf16" else _FP32_SHARE)
    return Speed(share * peak, False, f"assumed: {share:.0%} of the {peak / 1e12:.0f} TFLOP/s peak of {gpu_name}")


def _measured(name: str, dtype: str, *, per_rank: bool) -> Speed | None:
    """What training has recorded for a device by its name: FLOP/s of each rank. The ranks on a CPU share it."""
    try:
        entry = read_object(paths.cache_dir() / "machine.json")["devices"][name]
        if entry["dtype"] != dtype or not entry["flops_per_second"] > 0:
            return None
        flops = float(entry["flops_per_second"]) * (1 if per_rank else int(entry["ranks"]))
        return Speed(flops, True, f"measured here: {flops / 1e9:,.0f} GFLOP/s at width {int(entry['n_embd'])}")
    except (OSError, ValueError, KeyError, TypeError):  # nothing measured yet, or nothing readable: it is only a cache
        return None


def source_commit() -> str | None:
    """The commit that mccore's code is at, marked when files differ from it; None for an installed package."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed inside some other repository isn't versioned by it.
    if not git("ls-files", "__init__.py"):
        return None
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit} (with changes)" if commit and changed else commit
