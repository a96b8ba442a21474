"""Results of a run as a page, whatever is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.events import Event
from mccore.report.results import NOTHING, render_results
from mccore.runs.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "one", RunConfig(recipe="tiny"))


def test_nothing_yet(run: RunDir) -> None:
    assert render_results(run) == NOTHING


def test_a_stage_that_trains_shows_its_newest_evaluation(run: RunDir) -> None:
    measured = Event("eval", 1.0, 0, "base", 20, 2000, {"val_loss": 2.5, "val_bpb": 1.25}, {"name": "bits_per_byte"})
    sample = Event("sample", 2.0, 0, "base", 20, data={"prompt": "def f", "text": "(x)"})
    page = render_results(run, [measured, sample])
    assert "| base | running | 20 |  |  | 2.5000 | 1.2500 |" in page
    assert "def f⟶(x)" in page
    run.write_result("base", {"step": 30, "tokens": 3000, "loss": 2.25, "val_loss": 2.0, "val_bpb": 1.0})
    assert "| base | done | 30 | 3,000 | 2.2500 | 2.0000 | 1.0000 |" in render_results(run, [measured])


def test_working_contexts_are_worded_as_in_the_report(run: RunDir) -> None:
    row = {"condition": "context", "nll": 2.0, "stderr": 0.1, "delta": -0.2, "delta_stderr": 0.05, "gap_closed": 0.5}
    result = {"val_bpb": 1.0, "val_loss": 2.0, "tokens": 10, "bytes": 20, "samples": [], "context": {"table": [row]}}
    run.write_result("base_eval", result)
    page = render_results(run)
    assert "1.0000 bits per byte" in page
    assert "-0.2000" in page
    assert "50%" in page


@pytest.mark.parametrize(
    "content", [{}, {"val_bpb": "x"}, {"val_bpb": 1.0, "val_loss": None}, {"context": {"table": [3]}}]
)
def test_a_result_of_another_shape_is_a_line_and_the_rest_is_shown(run: RunDir, content: dict[str, object]) -> None:
    run.write_result("base_eval", content)
    run.write_result("base", {"step": 30, "loss": 2.25})
    page = render_results(run)
    assert "| base | done | 30 |" in page


def test_a_damaged_result_says_so(run: RunDir) -> None:
    run.write_result("base", {"step": 30})
    run.result_path("mid").write_text("{")
    page = render_results(run)
    assert "**mid**" in page
    assert "damaged" in page
    assert "| base | done | 30 |" in page
