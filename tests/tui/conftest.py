"""Runs to look at, written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.events import Event
from mccore.runs.rundir import RunDir

BEGAN = 1_700_000_000.0
ESCAPES = "\x1b]0;title\x07\x1b[2Jred\x9b31m\u202eback"


def write_run(root: Path, name: str = "first", steps: int = 200) -> RunDir:
    """A run with curves, alerts, samples, Working Contexts, and text that a terminal must not obey."""
    run = RunDir.create(root, name, RunConfig(recipe="tiny"))
    run.events_dir.mkdir()
    events = [
        Event("run.start", BEGAN, data={"stages": ["base", "report"], "pid": 1}),
        Event("stage.start", BEGAN + 1, 0, "base", data={"world_size": 2}),
    ]
    for step in range(1, steps + 1):
        metrics = {
            "loss": 4 / math.sqrt(step),
            "swap_rate": 0.1 + 0.15 * math.sin(step / 10),
            "residency": 0.95,
            "controller_duration": 0.01,
            "tokens_per_second": 1000.0,
            "grad_norm": math.inf if step == 7 else 1.0,
        }
        events.append(Event("step", BEGAN + 1 + step, 0, "base", step, step * 512, metrics, {"steps": steps}))
        if step % 20 == 0:
            far = [[2, 2], [1, step // 20], [0, 64]]
            covered = sum(entries * 16**level for level, entries in far)
            events.append(
                Event(
                    "working_context_snapshot", BEGAN + 1.5 + step, 0, "base", step, step * 512, {},
                    {"history": covered, "entries": 66 + step // 20, "budget": 128, "block_size": 16, "runs": far},
                )
            )  # fmt: skip
    alert = {"metric": "swap_rate", "value": 0.24, "band": [0.05, 0.2], "since": 30.0, "advice": f"look {ESCAPES}"}
    events.append(Event("alert", BEGAN + 150, 0, "base", 150, 150 * 512, data=alert))
    events.append(Event("sample", BEGAN + 160, 0, "base", 160, data={"prompt": "def f", "text": f"(x): {ESCAPES}"}))
    events.append(
        Event("mc_timing", BEGAN + 170, 0, "base", 170, data={"build_ms": 3.0, "variant_ms": 9.0, "total_ms": 12.0})
    )
    with open(run.events_dir / "rank0.jsonl", "w", encoding="utf-8") as file:
        file.writelines(event.to_json() + "\n" for event in events)
    (run.path / "logs").mkdir()
    (run.path / "logs" / "base.log").write_text(f"first line\nprogress 1\rprogress 2\n{ESCAPES}\n", encoding="utf-8")
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def run(root: Path) -> RunDir:
    return write_run(root)
