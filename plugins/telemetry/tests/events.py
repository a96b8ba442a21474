"""Events of a run that never was, for tests of providers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mccore.api import TelemetrySpec
from mccore.config import RunConfig
from mccore.events import METRICS, Event

BEGAN = 1_700_000_000.0
RUN_ID = "0123456789abcdef0123456789abcdef"


def spec(directory: Path, **changes: object) -> TelemetrySpec:
    values = {"run": "a-run", "directory": directory, "rank": 0, "config": RunConfig(), "run_id": RUN_ID} | changes
    return TelemetrySpec(**values)  # type: ignore[arg-type]


def step(number: int = 1, rank: int = 0, **metrics: float) -> Event:
    return Event(
        "step",
        BEGAN + number,
        rank,
        "base",
        number,
        number * 512,
        metrics or {"loss": 4.0 - number / 10},
        {"steps": 10},
    )


def every_metric() -> Event:
    """A step with a value of every metric, among them NaN and infinities."""
    values = {name: 1.5 + place for place, name in enumerate(METRICS)}
    values |= {"grad_norm": math.inf, "val_loss": math.nan, "lod_loss/1": -math.inf, "dwell/p95": 7.0}
    return Event("step", BEGAN + 1, 0, "base", 1, 512, values)


def run_events() -> list[Event]:
    """A short run: one stage with a step, an evaluation, a checkpoint, a refocus and an alert."""
    at: dict[str, Any] = {"stage": "base", "step": 1, "tokens": 512}
    return [
        Event("run.start", BEGAN, data={"pid": 1, "resumed": False, "version": "0.1.0", "stages": ["base"]}),
        Event("stage.start", BEGAN + 1, stage="base", data={"world_size": 2, "resumed_step": None}),
        Event("stage.start", BEGAN + 1, rank=1, stage="base", data={"world_size": 2, "resumed_step": None}),
        Event("step", BEGAN + 2, metrics={"loss": 3.5, "step_duration": 0.05, "tokens_total": 512.0}, **at),
        Event(
            "eval",
            BEGAN + 3,
            metrics={"val_bpb": 1.25},
            data={"name": "bits_per_byte", "seconds": 0.75, "details": {}},
            **at,
        ),
        Event("checkpoint", BEGAN + 4, data={"path": "checkpoints/base", "bytes": 1000, "seconds": 0.5}, **at),
        Event(
            "focus_allocator",
            BEGAN + 5,
            metrics={"controller_duration": 0.01, "swap_rate": 0.1},
            data={"session": "s", "allocator": "greedy", "refocus": 1, "history": 4096},
            **at,
        ),
        Event(
            "alert",
            BEGAN + 6,
            data={"metric": "swap_rate", "value": 0.9, "band": [0.05, 0.2], "since": 30.0, "advice": "look"},
            **at,
        ),
        Event("stage.end", BEGAN + 7, stage="base", data={"outcome": "finished", "message": "", "seconds": 6.0}),
        Event("stage.end", BEGAN + 7, rank=1, stage="base", data={"outcome": "finished", "seconds": 6.0}),
        Event("run.end", BEGAN + 8, data={"outcome": "finished", "message": "", "seconds": 8.0}),
    ]
