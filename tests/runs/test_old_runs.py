"""A run that an older build made loads: `tests/fixtures/run_bdf8b1c` is `tiny --mc` of a few steps, by commit bdf8b1c."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mccore.config.diff import flatten
from mccore.events import check_event, read_events
from mccore.runs.rundir import RunDir

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_bdf8b1c"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(FIXTURE, tmp_path / "old"))


def test_its_configuration_says_what_it_said(run: RunDir) -> None:
    """But for the version of the schema."""
    written = flatten_json(json.loads((run.path / "run.json").read_bytes()))
    flat = flatten(run.config)
    changed = {path: (value, flat[path]) for path, value in written.items() if flat[path] != value}
    assert changed == {"schema_version": (1, 2)}


def flatten_json(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= flatten_json(inner, f"{path}.{name}" if path else name)
    return found


def test_its_events_keep_to_the_schema(run: RunDir) -> None:
    events = read_events(run.events_dir)
    assert {"run.start", "step", "delta_nll", "focus_allocator"} <= {event.type for event in events}
    for event in events:
        check_event(event)


def test_all_its_stages_are_complete(run: RunDir) -> None:
    assert [stage for stage in run.config.stages if not run.completed(stage)] == []
    assert run.outcome().state == "finished"


def test_its_report_can_be_written(run: RunDir) -> None:
    from mccore.report.collect import collect
    from mccore.report.pages.summary import render_report

    data = collect(run, read_events(run.events_dir))
    text = render_report(data)
    assert data["outcome"]["state"] == "finished"
    assert [entry for entry in data["missing"] if entry["what"] in run.config.stages] == []
    for heading in (
        "## Training",
        "## Base model",
        "## Chat model",
        "### Refocuses",
        "### Evaluation of focus, base_eval",
    ):
        assert heading in text
