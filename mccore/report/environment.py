"""Where a run happened: machine, versions, commit, and which settings were changed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import cast

from mccore.config import RunConfig
from mccore.config.diff import differences, flatten
from mccore.events import Event
from mccore.host.json_file import read_object
from mccore.host.machine import accelerators, available_cores, cpu_name, source_commit
from mccore.report.shape import Environment, SettingEntry
from mccore.runs.rundir import RunDir


def changed_settings(config: RunConfig) -> dict[str, SettingEntry]:
    """The settings that aren't the schema's defaults: path -> default and value."""
    set_here = flatten(config)
    return {
        path: {"default": default, "value": value}
        for path, (default, value) in differences(RunConfig(), config).items()
        if path in set_here
    }


def describe_environment(run: RunDir, events: list[Event]) -> Environment:
    """The machine and the software. What a report of this run already says stays: it was there when the run was."""
    started = max((event.time for event in events if event.type == "run.start"), default=None)
    try:
        before = read_object(run.report_dir / "report.json")["environment"]
        if isinstance(before, dict) and before.get("run_started") == started and before.get("during_run"):
            return cast(Environment, before)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no earlier report, or none that can be read: it is about to be replaced
    return {
        "during_run": run.is_running(),
        "run_started": started,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "mccore": _version("mccore"),
        "torch": _version("torch"),
        "git_commit": source_commit(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": [gpu.name for gpu in accelerators()],
        "gpu_memory_bytes": [gpu.memory_bytes for gpu in accelerators()],
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
