"""All about a run that fits on a screen, from its directory alone."""

from __future__ import annotations

from pathlib import Path

from mccore.config import BaseConfig, RunConfig
from mccore.events import Event, EventWriter
from mccore.runs.detail import run_detail
from mccore.runs.rundir import RunDir


def started(root: Path) -> RunDir:
    """A run whose `base` was stopped, then killed without a word, and then stopped again."""
    config = RunConfig(recipe="tiny", stages=("data", "base"), base=BaseConfig(tokens=4096))
    run = RunDir.create(root, "one", config)
    with EventWriter(run.events_dir / "rank0.jsonl") as rank:
        rank.write(Event("stage.start", 1000.0, stage="base"))
        rank.write(
            Event("step", 1005.0, stage="base", step=1, tokens=64, metrics={"loss": 2.5, "grad_norm": float("nan")})
        )
        rank.write(Event("stage.end", 1013.0, stage="base", data={"outcome": "stopped", "seconds": 12.5}))
        rank.write(Event("stage.start", 2000.0, stage="base"))
        rank.write(Event("step", 2007.0, stage="base", step=2, tokens=128, metrics={"loss": 2.4}))
        rank.write(Event("stage.start", 3000.0, stage="base"))
        rank.write(Event("stage.end", 3003.0, stage="base", data={"outcome": "stopped", "seconds": 2.5}))
    return run


def test_a_stage_took_what_all_its_starts_took(tmp_path: Path) -> None:
    """The pauses between them don't count, and of the one that was killed what is known."""
    data, base = run_detail(started(tmp_path))["stages"]
    assert (base["state"], base["seconds"]) == ("stopped", 12.5 + 7.0 + 2.5)
    assert (data["state"], data["seconds"]) == ("to do", None)


def test_metrics_are_the_last_ones_and_those_of_each_stage(tmp_path: Path) -> None:
    run = started(tmp_path)
    with EventWriter(run.events_dir / "rank1.jsonl", rank=1) as other:
        other.write(Event("step", 2008.0, 1, "base", 2, 128, {"loss": 99.0, "mfu": 0.5}))
    found = run_detail(run)
    assert found["metrics"] == {"loss": 2.4, "mfu": 0.5}
    assert found["by_stage"]["base"] == found["metrics"]
