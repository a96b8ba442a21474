"""Write the report of a run: report.json, report.md and the plots."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mccore.config.stages import stage_of_work
from mccore.errors import RunError, cause
from mccore.events import finite, read_events
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.report.collect import collect
from mccore.report.shape import Report
from mccore.runs.rundir import RunDir
from mccore.runs.series import (
    curves,
    refocus_curves,
    snapshots,
    step_metrics,
    training_series,
)


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    markdown: Path
    json: Path
    plots: tuple[Path, ...]


def write_report(run: RunDir) -> ReportPaths:
    """Write `report/report.md`, `report.json` and the plots of a run, whatever state it is in. Raises RunError when the
    directory can't be read or written."""
    from mccore.report.pages.summary import render_report
    from mccore.report.pages.words import UNREADABLE
    from mccore.report.plots.megacontext import draw_megacontext
    from mccore.report.plots.suite import draw_suite
    from mccore.report.plots.training import draw_plots, draw_tokenizer

    events = read_events(run.events_dir)
    data = collect(run, events)
    plots = []
    images = draw_plots(curves(events))
    if data["megacontext"] is not None:
        steps, refocuses = training_series(curves(events, step_metrics)), refocus_curves(events)
        contexts = snapshots(events, "working_context_snapshot")
        images |= draw_megacontext(steps, refocuses, data["megacontext"]["evaluations"], contexts)
    if (suite := data["context_suite"]) is not None:
        images |= draw_suite(suite)
    if measured := data["results"].get(stage_of_work("prepare.measure_tokenizer")):
        with contextlib.suppress(*UNREADABLE):  # its section says so
            images["tokenizer.png"] = draw_tokenizer(measured)
    for name, image in images.items():
        plots.append(run.report_dir / name)
        write_atomic(plots[-1], image)
    data["plots"] = [path.name for path in plots]
    for path in run.report_dir.glob("*.png"):
        if path not in plots:  # of an earlier report that had more to draw
            path.unlink(missing_ok=True)
    paths = ReportPaths(run.report_dir / "report.md", run.report_dir / "report.json", tuple(plots))
    write_atomic(paths.json, json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(paths.markdown, render_report(data))
    return paths


def read_report(run: RunDir) -> Report:
    """The data of a report that was written. Raises RunError when there is none."""
    path = run.report_dir / "report.json"
    try:
        return cast(Report, read_object(path))
    except (OSError, ValueError) as error:
        raise RunError(
            f"can't read {path}: {cause(error)}", hint=f"write it again: mccore report {run.name}"
        ) from error
