"""All about a run that fits on a screen, from its directory."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

from mccore.errors import RunError
from mccore.events import Event, EventTail
from mccore.host.json_file import read_json
from mccore.runs.attempts import attempt_seconds, total_seconds
from mccore.runs.rundir import RunDir


def run_detail(run: RunDir) -> dict[str, Any]:
    """All about a run that fits on a screen."""
    outcome = run.outcome()
    ends: dict[str, Event] = {}
    starts: dict[str, Event] = {}
    own: dict[str, dict[str, float]] = {}  # stage -> metric -> last value
    others: dict[str, dict[str, float]] = {}
    telemetry: list[Event] = []
    events = sorted(EventTail(run.events_dir).drain(), key=lambda event: event.time)
    for event in events:
        (own if event.rank == 0 else others).setdefault(event.stage or "", {}).update(event.metrics)
        if event.stage is not None and event.type in ("stage.start", "stage.end"):
            (starts if event.type == "stage.start" else ends)[event.stage] = event
        elif event.type in ("run.start", "telemetry"):
            telemetry.append(event)
    return {
        "name": run.name,
        "path": str(run.path),
        "recipe": run.config.recipe,
        "started": run.started,
        "outcome": {"state": outcome.state, "stage": outcome.stage, "message": outcome.message},
        "stages": [
            _stage(run, stage, (starts.get(stage), ends.get(stage)), outcome.state, events)
            for stage in run.config.stages
        ],
        "metrics_at": _metrics_at(run),
        "telemetry": _telemetry(telemetry),
        "metrics": dict(sorted(_latest(own, others).items())),
        "by_stage": {
            stage: _without_nan({**others.get(stage, {}), **own.get(stage, {})}) for stage in sorted({*own, *others})
        },
    }


def _latest(own: dict[str, dict[str, float]], others: dict[str, dict[str, float]]) -> dict[str, float]:
    """The last value of each metric in any stage; rank 0's word counts."""
    return _without_nan(
        {name: value for each in (others, own) for found in each.values() for name, value in found.items()}
    )


def _without_nan(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _telemetry(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Each provider that had something to say: how it is, events lost over the whole run, and the newest reason.

    A provider counts from where it began to fail to where it recovered, or the process with it ended.
    """
    found: dict[str, dict[str, Any]] = {}
    open_losses: dict[str, int] = {}
    for event in sorted(events, key=lambda event: event.time):
        if event.type == "run.start":
            open_losses.clear()
            continue
        name, state, lost = (event.data.get(key) for key in ("provider", "state", "lost"))
        if not isinstance(name, str) or not isinstance(lost, int):  # cut off, or of another version
            continue
        row = found.setdefault(name, {"provider": name, "state": state, "lost": 0, "message": ""})
        row["lost"] += lost - open_losses.get(name, 0)
        open_losses[name] = lost if state == "failing" else 0
        row["state"] = state
        row["message"] = event.data.get("message") or row["message"]
    return list(found.values())


def _metrics_at(run: RunDir) -> list[str]:
    """Where the metrics of a run can be scraped now. The files are in the format of Prometheus' file discovery."""
    found = []
    for path in sorted(run.path.glob("telemetry/prometheus-*.json")) if run.is_running() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it ends at this moment, or isn't ours
            for group in read_json(path):
                scheme = group["labels"]["__scheme__"]
                found += [f"{scheme}://{target}/metrics" for target in group["targets"]]
    return found


def _stage(
    run: RunDir, stage: str, bounds: tuple[Event | None, Event | None], run_state: str, events: Iterable[Event]
) -> dict[str, Any]:
    """One stage: `bounds` are the events of its last start and end, `events` those of the whole run."""
    start, end = bounds
    if start is not None and end is not None and end.time < start.time:  # the end of an earlier start
        end = None
    if run.completed(stage):
        state = "finished"
    elif end is not None:
        state = str(end.data.get("outcome"))
    elif start is not None:
        state = "running" if run_state == "running" else run_state
    else:
        state = "to do"
    seconds = total_seconds(attempt_seconds(events, stage, time.time() if state == "running" else None))
    try:
        results = run.read_result(stage)
    except RunError as error:
        results = {"error": error.message}
    return {"stage": stage, "state": state, "seconds": seconds, "results": results}
