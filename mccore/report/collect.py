"""The report of a run: what it was, what it found, what it cost, and what is missing, from its directory alone.

`collect` gathers everything as plain data (`report.json`), `report_markdown` words it, `report_plots` draws the curves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mccore.config.stages import REPORT_STAGE, STAGES, evaluations, stage_spec
from mccore.errors import RunError
from mccore.events import Event, find_alerts
from mccore.report.environment import changed_settings, describe_environment
from mccore.report.evaluation import describe_samples
from mccore.report.megacontext import collect_megacontext
from mccore.report.shape import Absent, AlertEntry, OutcomeEntry, Reached, Report, RewardEntry, StageEntry, SuiteEntry
from mccore.report.suite import NAME, read_suite
from mccore.runs.attempts import attempt_seconds, total_seconds
from mccore.runs.rundir import RunDir
from mccore.runs.series import (
    curves,
    has_other_parts,
    refocus_curves,
    step_metrics,
    training_series,
)
from mccore.scaling.model import count_parameters, flops_per_token

REPORT_VERSION = 1

_LAST = 10  # steps of a mean, about those of a result's `loss`


def collect(run: RunDir, events: list[Event]) -> Report:
    """Everything a report says, as plain data; events oldest first."""
    config = run.config
    results: dict[str, dict[str, Any] | None] = {}
    damaged: dict[str, str] = {}
    for stage in STAGES:
        try:
            results[stage] = run.read_result(stage)
        except RunError as error:  # the rest of the run is worth reporting; this part is named as missing
            results[stage], damaged[stage] = None, error.message
    refocuses = refocus_curves(events)
    steps = training_series(curves(events, step_metrics))
    megacontext = collect_megacontext(config, events, results, steps, refocuses)
    missing = _missing_results(run, results, damaged, events)
    suite = _read_suite(run, missing)
    if megacontext is not None:
        # What a setting switches off is named in its own section alone.
        absent = [entry for entry in megacontext["missing"] if not entry["why"].startswith("megacontext.")]
        missing += [Absent(what=f"MegaContext: {entry['what']}", why=entry["why"]) for entry in absent]
    model = config.model
    known = bool(model.n_embd and model.vocab_size)
    return {
        "version": REPORT_VERSION,
        "run": run.name,
        "recipe": config.recipe,
        "written": _utc(time.time()),
        "outcome": _outcome(run),
        "environment": describe_environment(run, events),
        "configuration": changed_settings(config),
        "model": {
            "depth": model.depth, "n_embd": model.n_embd, "n_head": model.n_head, "n_kv_head": model.n_kv_head,
            "max_seq_len": model.max_seq_len, "vocab_size": model.vocab_size,
            "parameters": {**asdict(count_parameters(model)), "total": count_parameters(model).total} if known else None,
            "flops_per_token": flops_per_token(model) if known else None,
        },
        "stages": [_stage(run, stage, events) for stage in config.stages],
        "token_loss": _last_losses(events),
        "objective_loss": _last_losses(events, whole=True),
        "rewards": _rewards(events),
        "seconds": _wall_seconds(events),
        "results": {stage: result for stage, result in results.items() if result is not None and stage != REPORT_STAGE},
        "samples": describe_samples(events),
        "alerts": _alerts(run, events),
        "megacontext": megacontext,
        "context_suite": suite,
        "missing": missing,
    }  # fmt: skip


def _alerts(run: RunDir, events: Iterable[Event]) -> list[AlertEntry]:
    """Every alert, found again from the events: also for a run whose launcher was killed. Those still on come first."""
    found = find_alerts(events, time.time() if run.is_running() else None)
    return [
        AlertEntry(
            metric=alert.metric,
            value=alert.value,
            band=alert.band(),
            since=round(alert.fired - alert.began, 3),
            began=_utc(alert.began),
            advice=alert.row.advice,
            stage=alert.stage,
            step=alert.step,
            until=None if alert.until is None else _utc(alert.until),
            seconds=round((alert.until or alert.fired) - alert.began, 3),
        )
        for alert in sorted(found, key=lambda alert: (alert.until is not None, alert.began))
    ]


def _last_losses(events: Iterable[Event], *, whole: bool = False) -> dict[str, float]:
    """The language model's own loss over the last steps of every training stage; with `whole` the loss of the whole objective,
    where it has more parts than that. A mean of as many steps in both, and in every run: they are compared."""
    found = {}
    for stage, metrics in curves(events).items():
        points = metrics.get("loss", ()) if whole else metrics.get("token_loss") or metrics.get("loss", ())
        losses = [y for _, y in points[-_LAST:]]
        if losses and (not whole or has_other_parts(metrics)):
            found[stage] = sum(losses) / len(losses)
    return found


def _rewards(events: Iterable[Event]) -> dict[str, RewardEntry]:
    """Mean reward of the first and of the last steps of stages that learn from rewards."""
    found = {}
    for stage, metrics in curves(events).items():
        if values := [y for _, y in metrics.get("reward", ())]:
            steps = max(1, min(_LAST, len(values) // 2))
            first, last = sum(values[:steps]) / steps, sum(values[-steps:]) / steps
            found[stage] = RewardEntry(steps=steps, first=first, last=last)
    return found


# --- the parts --------------------------------------------------------------------------------------------------------


def _outcome(run: RunDir) -> OutcomeEntry:
    outcome = run.outcome()
    if outcome.state == "running" and all(run.completed(stage) for stage in run.config.stages if stage != REPORT_STAGE):
        return {"state": "finished", "stage": None, "message": ""}  # the report itself is what still runs
    return {"state": outcome.state, "stage": outcome.stage, "message": outcome.message, "hint": outcome.hint}


def _stage(run: RunDir, stage: str, events: list[Event]) -> StageEntry:
    """How one stage went: outcome, attempts, wall seconds over all attempts, and why it ended early."""
    mine = [event for event in events if event.stage == stage]
    attempts = attempt_seconds(events, stage)
    ends = [event for event in mine if event.type == "stage.end"]
    final = [event for event in ends if not mine or event.time >= _last_start(mine)]
    failed = next((event for event in final if event.data.get("outcome") == "failed"), None)
    end = failed or (final[-1] if final else None)
    if run.completed(stage):
        outcome, message = "finished", ""
    elif end is not None:
        outcome, message = str(end.data.get("outcome") or "failed"), str(end.data.get("message") or "")
    elif attempts:
        outcome, message = ("running", "") if run.is_running() else ("cut short", "it ended without saying why")
    else:
        outcome, message = "not run", ""
    return {
        "stage": stage,
        "outcome": outcome,
        "attempts": len(attempts),
        "seconds": total_seconds(attempts) or None,
        "message": message,
        "reached": _reached(mine),
    }


def _reached(events: list[Event]) -> Reached | None:
    """How far a training stage got: its last step, of how many, and the metrics there."""
    step = next((event for event in reversed(events) if event.type == "step" and event.rank == 0), None)
    if step is None:
        return None
    metrics = {name: value for name, value in step.metrics.items() if value == value}
    return {"step": step.step, "steps": step.data.get("steps"), "tokens": step.tokens, "metrics": metrics}


def _last_start(events: list[Event]) -> float:
    return max((event.time for event in events if event.type == "stage.start"), default=0.0)


def _wall_seconds(events: list[Event]) -> float | None:
    """Wall time of the run over all its starts; pauses between them don't count."""
    total, began, last = 0.0, None, 0.0
    for event in events:
        if event.type == "run.start":
            if began is not None:
                total += last - began
            began = event.time
        elif event.type == "run.end" and began is not None:
            total, began = total + event.time - began, None
        last = event.time
    if began is not None:
        total += last - began
    return total or None


def _missing_results(
    run: RunDir, results: Mapping[str, Any], damaged: Mapping[str, str], events: list[Event]
) -> list[Absent]:
    """What a reader may look for and not find, each with the reason."""
    missing: list[Absent] = []

    def add(what: str, why: str) -> None:
        missing.append({"what": what, "why": why})

    for stage in STAGES:
        if stage == REPORT_STAGE:
            continue
        if stage in damaged:
            add(stage, damaged[stage])
        elif stage not in run.config.stages:
            if not stage_spec(stage).optional:
                add(stage, "not among the stages of this run")
        elif results[stage] is None:
            told = _stage(run, stage, events)
            not_run = "not reached yet" if run.is_running() else "the run didn't get that far"
            why = {"not run": not_run, "running": "still running"}.get(told["outcome"])
            add(stage, why or f"{told['outcome']}: {told['message']}".removesuffix(": "))
    for stage in (spec.name for spec in evaluations(chat=True)):
        result = results[stage]
        if result is None:
            continue
        if not result.get("choice"):
            add(f"multiple choice in {stage}", "eval.choice_questions is 0")
        if not result.get("generated"):
            add(f"free answers in {stage}", "eval.generated_questions is 0")
        for task, found in (result.get("generated") or {}).items():
            if not found.get("n"):
                add(f"{task} in {stage}", "no question of it fits into the model's context")
    for what, why in _missing_benchmarks(run, results):
        add(what, why)
    if not any(event.type == "step" for event in events):
        add("loss curves", "no training step was recorded")
    return missing


def _read_suite(run: RunDir, missing: list[Absent]) -> SuiteEntry | None:
    """What `mccore eval context --suite` found, where somebody asked for it; that it is damaged is `missing`."""
    try:
        found = run.read_result(NAME)
    except RunError as error:
        missing.append({"what": "the suite of Working Contexts", "why": error.message})
        return None
    return None if found is None else read_suite(found)


def _missing_benchmarks(run: RunDir, results: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Published benchmarks that weren't measured, and why."""
    config = run.config.eval
    asked = [(spec, "core") for spec in evaluations(chat=False)] + [
        (spec, "benchmarks") for spec in evaluations(chat=True)
    ]
    if not config.core_bundle:
        yield "CORE", "eval.core_bundle names no bundle of its questions"
    if not config.benchmarks:
        yield "ChatCORE", "eval.benchmarks names none; held-out questions of our own are reported instead"
    for spec, part in asked:
        for name, why in ((results[spec.name] or {}).get(part) or {}).get("missing", {}).items():
            yield f"{name} in {spec.name}", why


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
