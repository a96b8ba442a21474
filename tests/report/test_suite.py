"""What a suite measured, in a report: worded, drawn, and read whatever state it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.report.pages.suite import section_lines, suite_lines
from mccore.report.plots.suite import draw_suite
from mccore.report.suite import NAME, read_suite
from mccore.report.write import read_report, write_report
from mccore.runs.rundir import RunDir
from mccore.scaling.derive import derive


def answer(condition: str, accuracy: float, size: int = 4096, **more: Any) -> dict[str, Any]:
    row = {
        "condition": condition,
        "kind": "needle",
        "variant": "single",
        "size": size,
        "n": 10,
        "nll": 1.0,
        "right": accuracy,
    }
    return {**row, "accuracy": accuracy, "low": max(0.0, accuracy - 0.2), "high": min(1.0, accuracy + 0.2), **more}


FOUND: dict[str, Any] = {
    "suite": "short", "run": "r", "stage": "base", "step": 3, "twin": None, "entries": 256, "lookup": True,
    "histories": {
        "history": 3000, "rows": 24, "documents": 12, "nll": {"window": {"mean": 2.5}, "lookup": {"mean": 1.5}},
        "differences": {"lookup - window": {"mean": -1.0, "stderr": 0.125, "runs": [-1.0]}},
        "by_place": [{"condition": "lookup", "place": "far only", "share": 0.15, "nll": 3.0, "delta": -1.25, "stderr": 0.25}],
        "by_kind": [{"condition": "lookup", "by": "text", "kind": "prose", "share": 0.5, "delta": -2.5, "stderr": 0.5}],
    },
    "recall": {
        "by_size": [answer("session", 0.9), answer("window", 0.1), answer("session", 0.8, 16_384)],
        "by_depth": [answer("session", 0.5, depth=0.05), answer("session", 1.0, depth=0.95)],
    },
    "identifiers": [answer("session", 0.4, kind="identifier", variant="")],
    "costs": {
        "plain_ms": {"median": 2.0, "mean": 2.1, "p95": 3.0},
        "histories": [{
            "tokens": 8192, "token_ms": {"median": 2.25, "mean": 2.5, "p95": 4.0}, "to_plain": {"median": 1.125},
            "first_token_seconds": 0.031, "ingest_seconds": 0.5, "tree_bytes": 2**20, "index_bytes": 2**17, "cache_bytes": 2**21,
        }],
    },
    "missing": [{"what": "more", "why": "nobody asked"}], "seconds": {"recall": 60.0, "costs": 30.0},
}  # fmt: skip


def test_a_person_reads_all_parts() -> None:
    page = "\n\n".join(suite_lines(FOUND, ["context_recall.png"]))
    for text in (
        "suite short", "256 entries, with a lookup, in 1m 30s", "24 ends of histories of 3,000 tokens, in 12 documents",
        "| lookup | 1.5000 | -1.0000 ± 0.1250 |", "| far only | 0.150 | -1.2500 ± 0.2500 |",
        "| prose | 0.500 | -2.5000 ± 0.5000 |",
        "| needle single | 4,096 | 10 | 0.90 (0.70-1.00) | 0.10 (0.00-0.30) |",
        "| needle single | 16,384 | 10 | 0.80 (0.60-1.00) |",
        "| identifier | 4,096 | 10 | 0.40 (0.20-0.60) |",
        "| 8,192 | 2.25 | 2.50 | 1.12 | 0.50 | 31 | 1.0 MiB | 128.0 KiB | 2.0 MiB |",
        "nobody asked", "(context_recall.png)",
    ):  # fmt: skip
        assert text in page
    assert "context_costs.png" not in page


def test_pictures_of_what_there_is() -> None:
    images = draw_suite(read_suite(FOUND))
    assert set(images) == {"context_recall.png", "context_depth.png", "context_costs.png"}
    assert all(image.startswith(b"\x89PNG") for image in images.values())
    assert draw_suite(read_suite({})) == {}
    half = {"by_size": [{"size": "x"}, answer("session", 0.5, low=None)], "by_depth": [{}]}
    damaged = {"recall": half, "identifiers": 3, "costs": {"histories": [{}, "x"]}}
    assert set(draw_suite(read_suite({**FOUND, **damaged}))) == {"context_recall.png"}


@pytest.mark.parametrize("part", ["histories", "recall", "identifiers", "costs", "missing", "seconds"])
@pytest.mark.parametrize("damage", [None, 3, "x", [None], [{}], {"by_size": [{"size": "x"}], "histories": [{}]}])
def test_damaged_parts_are_left_out_and_the_rest_is_shown(part: str, damage: Any) -> None:
    page = "\n\n".join(section_lines(read_suite({**FOUND, part: damage})))
    assert "suite short" in page
    assert ("-1.2500" in page) == (part != "histories")


def test_the_report_of_a_run_tells_it(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", derive(RunConfig(recipe="tiny")))
    assert "suite short" not in write_report(run).markdown.read_text(encoding="utf-8")
    assert read_report(run)["context_suite"] is None
    run.write_result(NAME, FOUND)
    paths = write_report(run)
    assert "![What a token costs by the length of the history](context_costs.png)" in paths.markdown.read_text("utf-8")
    suite = read_report(run)["context_suite"]
    assert suite is not None
    assert suite["answers"][0]["accuracy"] == 0.9
    run.result_path(NAME).write_text("{")
    write_report(run)
    assert any(entry["what"] == "the suite of Working Contexts" for entry in read_report(run)["missing"])
