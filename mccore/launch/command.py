"""The command line and the environment of a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from mccore.config import HardwareConfig, StageName, describe_validation, stage_spec
from mccore.errors import ConfigError
from mccore.host.machine import available_cores
from mccore.host.processes import NOTHING_INSTALLED
from mccore.runs.rundir import RunDir

WORKER = "mccore.launch.worker"
# What may change from one start of a run to the next; everything else is fixed by run.json.
FREE_SETTINGS = ("hardware.nproc", "hardware.nnodes", "hardware.rdzv_endpoint", "hardware.threads")


def stage_command(
    path: Path, stage: StageName, hardware: HardwareConfig, run_name: str = "", *, worker: str = WORKER
) -> list[str]:
    """The command line of one stage, on all ranks or on one, as the table of stages says."""
    target = ["-m", worker, str(path), stage]
    if not stage_spec(stage).ranks or hardware.nproc * hardware.nnodes == 1:
        return [sys.executable, *target]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(hardware.nproc)]
    if hardware.nnodes == 1:
        command.append("--standalone")
    else:
        command += ["--nnodes", str(hardware.nnodes), "--rdzv-backend", "c10d", "--rdzv-id", run_name or path.name]
        command += ["--rdzv-endpoint", hardware.rdzv_endpoint]
    return [*command, *target]


# For training on a CPU (figures in docs/LOG.md). Threads that wait by spinning slow a step thirtyfold when another process needs
# one of the cores. And glibc gives the large blocks of every step back to the kernel and faults them in again.
_CPU_RUNTIME = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


def stage_environment(
    stage: StageName, hardware: HardwareConfig, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Variables a stage gets in addition to ours. A thread count the user has set stays, unless the configuration has one."""
    environ = os.environ if environ is None else environ
    ranks = hardware.nproc if stage_spec(stage).ranks else 1
    # The directory one stands in isn't searched for modules.
    added = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **NOTHING_INSTALLED}
    if hardware.threads or "OMP_NUM_THREADS" not in environ:
        added["OMP_NUM_THREADS"] = str(hardware.threads or max(1, available_cores() // ranks))
    added |= {name: value for name, value in _CPU_RUNTIME.items() if name not in environ}
    return added


# What other launchers leave behind for their own children: Kubernetes' PyTorchJob, SLURM wrappers, a shell inside torchrun.
# Ours say for themselves who their ranks are; `torch.distributed.run` reads PET_* as its own options.
_RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE",
    "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK",
)  # fmt: skip
_RANK_PREFIXES = ("TORCHELASTIC_", "PET_", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
# What changes how libraries start, and that no stage wants: a notebook's plot backend, warnings as errors, an inspector.
_FOREIGN = ("MPLBACKEND", "MATPLOTLIBRC", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONOPTIMIZE")


def child_environment(stage: StageName, hardware: HardwareConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """All variables of a stage: ours, and those of `environ` but what speaks of other ranks or changes how libraries start."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in (*_RANKS, *_FOREIGN) and not name.startswith(_RANK_PREFIXES)
    }
    threads = kept.get("OMP_NUM_THREADS", "").strip()
    if "OMP_NUM_THREADS" in kept and not (threads.isascii() and threads.isdigit() and int(threads) > 0):
        del kept["OMP_NUM_THREADS"]  # OpenMP would warn and take all cores
    return kept | stage_environment(stage, hardware, kept)


def effective_hardware(run: RunDir, changes: dict[str, object]) -> HardwareConfig:
    """The hardware of this start: that of `run.json` with the free settings given anew (by field name).

    Raises ConfigError for a value that none of them can have.
    """
    if not changes:
        return run.config.hardware
    try:
        return HardwareConfig.model_validate({**run.config.hardware.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"hardware.{describe_validation(error)}") from error
