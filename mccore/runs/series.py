"""Curves of a run from its events: metrics by stage over training tokens, refocuses, snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mccore.config import STAGES, TRAINING_STAGES
from mccore.events import Event
from mccore.events.metrics import EVALUATED, family, language_loss, metric, metrics_of

Points = Sequence[tuple[float, float]]
Series = Mapping[str, Mapping[str, Points]]  # stage -> metric -> points in order

_OBJECTIVE, _REFOCUS = frozenset(metrics_of("objective")), frozenset(metrics_of("refocus"))

# What is drawn of any training; the part of the loss that compares with validation lies in the same picture.
_TRAINING = (*metrics_of("training"), "token_loss")


def plain_metrics(event: Event) -> dict[str, float]:
    """The metrics of an event that belong on the curves of any training."""
    if event.type not in ("step", "eval"):
        return {}
    return {name: event.metrics[name] for name in _TRAINING if name in event.metrics}


def curves(
    events: Iterable[Event], values: Callable[[Event], Mapping[str, float]] = plain_metrics
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What the plots show: stage -> metric -> points (training tokens, value) in order; `values` chooses what of an event.

    Where a run went back to a checkpoint, its later steps replace the earlier ones.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in events:
        if event.stage not in TRAINING_STAGES or event.rank != 0 or event.tokens is None:
            continue
        for name, value in values(event).items():
            put(found.setdefault(event.stage, {}).setdefault(name, []), float(event.tokens), value)
    return {stage: {name: points for name, points in metrics.items() if points} for stage, metrics in found.items()}


def put(points: list[tuple[float, float]], x: float, value: float) -> None:
    """Add a point to a curve; one that isn't a number is left out.

    A resumed run repeats steps it had lost: what lies at `x` or beyond is of the history that didn't count.
    """
    while points and points[-1][0] >= x:
        points.pop()
    if not math.isnan(value):
        points.append((x, value))


def name_losses(results: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's results with losses by their names among metrics: with MegaContext the results' `loss` is the metric
    `token_loss`, and their `objective_loss` the metric `loss`."""
    if results.get("objective_loss", results.get("loss")) == results.get("loss"):
        return dict(results)
    names = {"loss": "token_loss", "objective_loss": "loss"}
    return {names.get(name, name): value for name, value in results.items()}


def comparable(runs: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Last metrics of runs that are to stand side by side: where one of them trained by more than the language model's loss,
    `token_loss` is that loss in all of them, and `loss`, which would be different things, is left out."""
    parts = ["token_loss" in run and run["token_loss"] != run.get("loss") for run in runs]
    if not any(parts):
        return [dict(run) for run in runs]
    found = []
    for run in runs:
        own = language_loss(run)
        found.append({name: value for name, value in run.items() if name != "loss"})
        if own is not None:
            found[-1]["token_loss"] = own
    return found


def side_by_side(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> list[tuple[str, str, list[float | None]]]:
    """(metric, stage, its value in each run) of runs that are given as stage -> metric -> last value, by name.

    A loss of `base` and one of `sft` are of different things: a metric stands beside itself where all runs that have it were in
    the same stage, the last of these. Where they share none, each of its stages has a row.
    """
    stages = list(dict.fromkeys(stage for run in runs for stage in run))
    stages.sort(key=lambda stage: STAGES.index(stage) if stage in STAGES else -1)
    alike = {stage: comparable([run.get(stage, {}) for run in runs]) for stage in stages}
    rows: list[tuple[str, str, list[float | None]]] = []
    for name in sorted({name for values in alike.values() for run in values for name in run}):
        having = [any(name in alike[stage][place] for stage in stages) for place in range(len(runs))]
        found = [
            (name, stage, [run.get(name) for run in alike[stage]])
            for stage in stages
            if any(name in run for run in alike[stage])
        ]
        shared = [row for row in found if [value is not None for value in row[2]] == having]
        rows += shared[-1:] or found
    return rows


# --- what is measured --------------------------------------------------------------------------------------------------


def step_metrics(event: Event) -> dict[str, float]:
    """The metrics of an event that belong on the curves of MegaContext training, by name."""
    if event.type in ("step", "mc_batch_stats"):
        return {name: value for name, value in event.metrics.items() if family(name) in _OBJECTIVE}
    if event.type == "delta_nll" and "delta_nll" in event.metrics:
        return {EVALUATED: event.metrics["delta_nll"]}
    return {}


def has_other_parts(metrics: Mapping[str, Points]) -> bool:
    """Whether a stage's `loss` is more than its `token_loss`: MegaContext's objective has other parts beside it."""
    objective = dict(metrics.get("loss", ()))
    return any(x in objective and abs(objective[x] - y) > 0.01 * abs(y) for x, y in metrics.get("token_loss", ()))


def training_series(steps: Series) -> Series:
    """Curves of `step_metrics` without the stages that have nothing but what a plain step has."""
    return {stage: metrics for stage, metrics in steps.items() if any(not metric(name).plain for name in metrics)}


def refocus_curves(events: Iterable[Event]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Metrics of refocuses: stage -> metric -> points in order. They lie at the training tokens where a training stage
    measured them, else at the number of the refocus within the stage. Repeated steps replace what was lost, as in `curves`."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    counts: dict[str, int] = {}
    for event in events:
        if event.type not in ("focus_allocator", "inference_update") or event.stage is None or event.rank != 0:
            continue
        values = {
            name: value for name, value in event.metrics.items() if family(name) in _REFOCUS and math.isfinite(value)
        }
        if not values or (event.stage in TRAINING_STAGES and event.tokens is None):
            continue
        counts[event.stage] = counts.get(event.stage, 0) + 1
        x = float(event.tokens or 0) if event.stage in TRAINING_STAGES else float(counts[event.stage])
        for name, value in values.items():
            put(found.setdefault(event.stage, {}).setdefault(name, []), x, value)
    return found


def snapshots(events: Iterable[Event], kind: str) -> dict[str, list[Event]]:
    """Events of one type by stage, in order."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.type == kind and event.rank == 0:
            found.setdefault(event.stage or "", []).append(event)
    return found


def last_samples(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The `sample` events of every stage's last step that has any."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.type == "sample" and event.stage is not None:
            samples = found.setdefault(event.stage, [])
            if samples and samples[-1].step != event.step:
                samples.clear()
            samples.append(event)
    return found
