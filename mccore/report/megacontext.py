"""The MegaContext part of a report as plain data: what was measured over a run, what left its band, what is missing and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from mccore.config import TRAINING_STAGES, MegaContextConfig, RunConfig
from mccore.config.stages import STAGE_TABLE
from mccore.events import METRICS, Event
from mccore.events.metrics import EVALUATED, family, metric, metrics_of
from mccore.report.evaluation import finite_number, read_evaluation
from mccore.report.shape import Absent, ContextEntry, MegaContextEntry, MetricEntry, Result
from mccore.runs.lod_map import stretches, text_map
from mccore.runs.series import Points, Series, snapshots
from mccore.scaling.megacontext import megacontext_flops, megacontext_parameters, variant_lengths

TIMINGS = ("build_ms", "positional_ms", "variant_ms", "lens_forward_ms", "lens_loss_ms", "total_ms")

_END_SHARE = 0.1  # of a stage's tokens are its end


def describe_series(series: Series) -> list[MetricEntry]:
    """One row for every metric of every stage, in the order of METRICS: its values and how they lie to the metric's band."""
    order = {name: place for place, name in enumerate(METRICS)}
    return [
        _describe(stage, name, [y for _, y in points if math.isfinite(y)], _end_of(points, _last_token(metrics)))
        for stage, metrics in series.items()
        for name, points in sorted(metrics.items(), key=lambda item: (order[family(item[0])], item[0]))
        if any(math.isfinite(y) for _, y in points)
    ]


def _last_token(metrics: Mapping[str, Points]) -> float:
    return max((points[-1][0] for points in metrics.values() if points), default=0.0)


def _end_of(points: Points, last_token: float) -> Sequence[float]:
    """The values in the last tenth of a stage, which a metric that begins late has as many of as the others; at least one."""
    values = [(x, y) for x, y in points if math.isfinite(y)]
    return [y for x, y in values if x > (1 - _END_SHARE) * last_token] or [y for _, y in values[-1:]]


def _describe(stage: str, name: str, values: Sequence[float], last: Sequence[float]) -> MetricEntry:
    known = METRICS["delta_nll"] if name == EVALUATED else metric(name)
    # What counts up is at its end what it says last.
    last = last if known.kind != "counter" else values[-1:]
    end = sum(last) / len(last)
    row: MetricEntry = {
        "stage": stage,
        "metric": name,
        "unit": known.unit,
        "points": len(values),
        "first": values[0],
        "end": end,
        "mean": sum(values) / len(values),
        "lowest": min(values),
        "highest": max(values),
        "band": None,
        "outside": None,
        "end_outside": None,
    }
    # A band is of the metric itself, not of another statistic of it (`dwell/p95`).
    if known.band is not None and name in (known.name, EVALUATED):
        low, high = known.band
        row["band"] = [None if math.isinf(low) else low, None if math.isinf(high) else high]
        row["outside"] = sum(not low <= value <= high for value in values) / len(values)
        row["end_outside"] = not low <= end <= high
    return row


# --- the section -------------------------------------------------------------------------------------------------------


def collect_megacontext(
    config: RunConfig, events: Sequence[Event], results: Mapping[str, Result | None], steps: Series, refocuses: Series
) -> MegaContextEntry | None:
    """The data of the section; None for a run that has nothing to do with MegaContext. `steps` and `refocuses` are
    `training_series` and `refocus_curves`."""
    evaluations = {
        stage: context
        for stage, result in results.items()
        if isinstance(context := (result or {}).get("context"), Mapping) and context
    }
    if not config.megacontext.enabled and not evaluations and not refocuses:
        return None
    timing = {stage: _mean_timing(found) for stage, found in snapshots(events, "mc_timing").items()}
    return {
        "enabled": config.megacontext.enabled,
        "settings": _settings(config.megacontext),
        "derived": _derived(config),
        "steps": describe_series(steps),
        "refocuses": describe_series(refocuses),
        "timing": {stage: found for stage, found in timing.items() if found},
        "trees": {stage: dict(found[-1].data) for stage, found in snapshots(events, "mc_tree_snapshot").items()},
        "contexts": {
            stage: _context(found[-1].data) for stage, found in snapshots(events, "working_context_snapshot").items()
        },
        "evaluations": {stage: read_evaluation(found) for stage, found in evaluations.items()},
        "missing": _missing(config, results, steps, refocuses, evaluations),
    }


def _settings(mc: MegaContextConfig) -> dict[str, Any]:
    names = (
        "block_size", "max_lod", "num_random_variants", "horizon", "recent_tokens", "expanded_blocks", "wc_length",
        "positional", "distill_weight", "recon_weight",
    )  # fmt: skip
    return {
        **{name: getattr(mc, name) for name in names},
        "allocator": mc.allocator.name,
        "tree": mc.tree.name,
        "gistnet": mc.gistnet.kind,
        "lens_target": mc.lens.target,
    }


def _derived(config: RunConfig) -> dict[str, Any] | None:
    mc = config.megacontext
    if (
        not mc.enabled or not config.model.n_embd or mc.train_wc_length is None
    ):  # not derived: written by hand, or damaged
        return None
    parameters, flops = megacontext_parameters(config), megacontext_flops(config)
    return {
        "parameters": {**asdict(parameters), "total": parameters.total},
        "flops_per_token": {**asdict(flops), "total": flops.total},
        "variant_lengths": [part._asdict() for part in variant_lengths(config)],
    }


def _mean_timing(events: Sequence[Event]) -> dict[str, float]:
    """The mean of every part over the events that tell it, in milliseconds."""
    found = {}
    for name in TIMINGS:
        values = [value for event in events if (value := finite_number(event.data.get(name))) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found


def _context(data: Mapping[str, Any]) -> ContextEntry:
    """A Working Context in numbers: entries and tokens by level."""
    size, entries = int(data.get("block_size") or 0), dict[int, int]()
    for level, count in read_runs(data):
        entries[level] = entries.get(level, 0) + count
    return {
        "tokens": data.get("history"),
        "entries": data.get("entries"),
        "budget": data.get("budget"),
        "block_size": size,
        "by_level": [
            {"level": level, "entries": entries[level], "tokens": entries[level] * size**level}
            for level in sorted(entries)
        ],
        "map": _map(data),
    }


def _map(data: Mapping[str, Any]) -> list[str]:
    try:
        return text_map(stretches(read_runs(data), int(data["block_size"]), int(data["history"])))
    except (KeyError, TypeError, ValueError):  # damaged: its numbers are shown as far as they go
        return []


def read_runs(data: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The runs `(level, entries)` of a Working Context's snapshot; none where they can't be read."""
    try:
        return [(int(level), int(count)) for level, count in data.get("runs") or ()]
    except (TypeError, ValueError):
        return []


# --- what is missing ---------------------------------------------------------------------------------------------------


def _missing(
    config: RunConfig,
    results: Mapping[str, Result | None],
    steps: Series,
    refocuses: Series,
    evaluations: Mapping[str, Any],
) -> list[Absent]:
    """What a reader may look for in this section and not find, each with the reason."""
    mc = config.megacontext
    missing: list[Absent] = []

    def add(what: str, why: str) -> None:
        missing.append({"what": what, "why": why})

    there = {family(name) for metrics in steps.values() for name in metrics}
    trained = [stage for stage in TRAINING_STAGES if stage in config.stages]
    if mc.enabled:
        if not there:
            add("curves of MegaContext training", _no_steps(config, trained))
        else:
            for names, why in _unmeasured(mc, there, cut=any(results.get(stage) is None for stage in trained)):
                add(", ".join(names), why)
    if not refocuses:
        add(
            ", ".join(metrics_of("refocus")), "no refocus of a session was recorded: they come from evaluation and chat"
        )
    if not evaluations:
        done = [spec.name for spec in STAGE_TABLE if spec.evaluates and results.get(spec.name)]
        why = f"{' and '.join(done)} didn't evaluate it" if done else "no stage that evaluates it was finished"
        add("evaluation of focus", why)
    elif not any(found.get("by_distance") for found in evaluations.values()):
        add("delta NLL by distance and LOD", "the evaluation of focus didn't measure it")
    return missing


def _no_steps(config: RunConfig, trained: Sequence[str]) -> str:
    return f"no step of {', '.join(trained)} was recorded" if trained else "this run has no stage that trains"


def _unmeasured(mc: MegaContextConfig, there: set[str], cut: bool) -> Iterable[tuple[list[str], str]]:
    """Training metrics that a run hasn't got, grouped by the reason."""
    reasons: dict[str, list[str]] = {}
    for name in metrics_of("objective"):
        if name not in there and name != "mfu":  # a device whose peak isn't known has none
            reasons.setdefault(_why_unmeasured(mc, name, cut), []).append(name)
    return [(names, why) for why, names in reasons.items()]


def _why_unmeasured(mc: MegaContextConfig, name: str, cut: bool) -> str:
    needs = metric(name).needs
    for need in needs:
        path, _, excluded = need.partition("!=")
        value = attrgetter(path)(mc)
        if value == excluded or not value:
            return f"megacontext.{path} is {excluded or 0}"
    if cut and any(need.startswith("lens.") for need in needs):
        return f"LensNet is trained from {mc.lens.start:.0%} of a stage on, and the run was cut short before"
    return "not recorded by this run"
