"""Providers of W&B runs in directories of their own, in an environment without anybody's credentials."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.wandb import WandbOptions, WandbTelemetry
from mccore_telemetry.wandb.record import read_rows

from mccore.api import TelemetrySpec
from mccore.config import RunConfig
from mccore.events import Event

from .backend import Backend

RUN_ID = "0123456789abcdef" * 2
WANDB_ID = RUN_ID[:16]
BEGAN = 1_790_000_000.0

Open = Callable[..., WandbTelemetry]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / name.lower()))
    yield
    import wandb

    wandb.teardown()  # the next test has other variables


@pytest.fixture
def open_provider(tmp_path: Path) -> Open:
    """`open_provider(mode, patience=60.0, **options)`: a provider of the run in tmp_path."""

    def make(mode: str = "offline", *, patience: float = 60.0, **options: Any) -> WandbTelemetry:
        return WandbTelemetry(WandbOptions(mode=mode, **options), spec(tmp_path, patience))

    return make


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A stand-in for W&B's server."""
    server = Backend()
    yield server
    server.close()


def spec(directory: Path, patience: float = 60.0, rank: int = 0) -> TelemetrySpec:
    return TelemetrySpec("a-run", directory, rank, RunConfig(), run_id=RUN_ID, patience_seconds=patience)


def steps(count: int, first: int = 1, stage: str = "base") -> list[Event]:
    """Events of training steps."""
    return [
        Event(
            "step",
            BEGAN + number,
            stage=stage,
            step=number,
            tokens=number * 512,
            metrics={"loss": 10.0 / number, "flops_total": number * 1e15, "step_duration": number / 1000},
        )
        for number in range(first, first + count)
    ]


def logs(directory: Path) -> list[Path]:
    """W&B's logs of a run, oldest first."""
    return sorted((directory / "telemetry/wandb").glob("*run-*/*.wandb"))


def rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of all logs of a run, as W&B's own reader finds them."""
    return [row for log in logs(directory) for row in read_rows(log)]
