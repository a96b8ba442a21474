"""Runs side by side: what each had spent when it measured something, and what it had to spend to come as far as the others.

Steps, tokens, FLOPs, seconds of training and MC effective steps are read from the run's own curves, so nothing more is kept. An
MC effective step is an optimizer step as often as its sequences were read: once plainly, and once as every variant.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mccore.runs.live.state import RunState
from mccore.runs.live.trace import Trace

Budget = Literal["step", "tokens", "flops", "seconds", "mc_effective_step"]
BUDGETS: dict[Budget, str] = {
    "step": "steps",
    "tokens": "tokens",
    "flops": "FLOPs",
    "seconds": "training time",
    "mc_effective_step": "MC effective steps",
}
LOSSES = ("token_loss", "loss")  # the language model's own first: with MegaContext `loss` is the whole objective


@dataclass(frozen=True)
class Curve:
    """The means of a metric over what a run had spent, which rises."""

    spent: list[float]
    mean: list[float]


def curve(state: RunState, stage: str, metric: str, budget: Budget) -> Curve | None:
    """The curve of a metric, None where the run hasn't measured it or doesn't tell what it spends. `loss` is the language
    model's own in every run."""
    names = LOSSES if metric == "loss" else (metric,)
    trace = next((state.traces[stage, name] for name in names if (stage, name) in state.traces), None)
    if trace is None or not trace.buckets:
        return None
    spend = Spend(state, stage)
    points = [(spend.at(bucket.step, bucket.tokens, budget), bucket.mean) for bucket in trace.buckets]
    told = [(spent, mean) for spent, mean in points if spent is not None]
    return Curve([spent for spent, _ in told], [mean for _, mean in told]) if told else None


class Spend:
    """What a stage of a run had spent after a step."""

    def __init__(self, state: RunState, stage: str) -> None:
        self._traces = {name: state.traces.get((stage, name)) for name in ("flops_total", "variants_total")}
        found = state.stages.get(stage)
        self._rows = None if found is None else found.rows
        self._seconds = _running_total(state.traces.get((stage, "step_duration")))
        self._steps = {name: [bucket.step for bucket in trace.buckets] for name, trace in self._traces.items() if trace}

    def at(self, step: float, tokens: float, budget: Budget) -> float | None:
        """What was spent after `step`, None where the run doesn't say. Seconds are those of steps alone: what a pause, an
        evaluation or a checkpoint takes isn't training."""
        match budget:
            case "step":
                return step
            case "tokens":
                return tokens
            case "seconds":
                return _interpolated(*self._seconds, step) if self._seconds is not None else None
            case "flops":
                return self._counted("flops_total", step)
        variants = self._counted("variants_total", step)
        if variants is None:  # a plain run draws none
            return step
        return step + variants / self._rows if self._rows else None

    def _counted(self, name: str, step: float) -> float | None:
        trace = self._traces[name]
        if trace is None or not trace.buckets:
            return None
        return _interpolated(self._steps[name], [bucket.last for bucket in trace.buckets], step)


def _running_total(trace: Trace | None) -> tuple[list[float], list[float]] | None:
    """The steps of a curve and the sum of its values up to each."""
    if trace is None or not trace.buckets:
        return None
    total, sums = 0.0, []
    for bucket in trace.buckets:
        total += bucket.total
        sums.append(total)
    return [bucket.step for bucket in trace.buckets], sums


def _interpolated(at: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The value at a place between those that are known; beyond the last it is the last, before the first a share of it."""
    place = bisect_left(at, wanted)
    if place == len(at):
        return values[-1]
    left, before = (at[place - 1], values[place - 1]) if place else (0.0, 0.0)
    width = at[place] - left
    return before + (values[place] - before) * (wanted - left) / width if width > 0 else values[place]


def reached(curve: Curve, value: float) -> float | None:
    """What was spent when a falling metric first was at or below a value, None where it never was."""
    return next((spent for spent, mean in zip(curve.spent, curve.mean, strict=True) if mean <= value), None)


def common_value(curves: Sequence[Curve]) -> float | None:
    """The lowest value that every one of some falling curves has reached: where they can be compared."""
    lowest = [min((each for each in curve.mean if math.isfinite(each)), default=math.inf) for curve in curves]
    found = max(lowest, default=math.inf)
    return found if math.isfinite(found) else None


def stages_with(states: Sequence[RunState], metric: str) -> list[str]:
    """The stages in which any of some runs has measured a metric, those of most runs first."""
    names = LOSSES if metric == "loss" else (metric,)
    counts: dict[str, int] = {}
    for state in states:
        for stage in dict.fromkeys(stage for stage, name in state.traces if name in names):
            counts[stage] = counts.get(stage, 0) + 1
    return sorted(counts, key=lambda stage: -counts[stage])
