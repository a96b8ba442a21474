"""The report of a run: what it was, what it found, what it cost, and what is missing, from its directory alone.

`collect` gathers everything as plain data (`report.json`), `report_markdown` words it, `report_plots` draws the curves.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mccore.config import STAGES, TRAINING_STAGES, RunConfig
from mccore.config_diff import differences, flatten
from mccore.errors import RunError
from mccore.events import Event, read_events
from mccore.files import write_atomic
from mccore.machine import accelerators, available_cores, cpu_name
from mccore.report_megacontext import (
    banded_metrics,
    collect_megacontext,
    describe_series,
    has_other_parts,
    refocus_curves,
    snapshots,
    step_metrics,
    training_series,
    violations,
)
from mccore.rundir import RunDir
from mccore.scaling import count_parameters, flops_per_token

REPORT_VERSION = 1
_CURVES = ("loss", "token_loss", "lr_multiplier", "tokens_per_second")
_LAST = 10  # steps of a mean, about those of a result's `loss`


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    markdown: Path
    json: Path
    plots: tuple[Path, ...]


def write_report(run: RunDir) -> ReportPaths:
    """Write `report/report.md`, `report.json` and the plots of a run, whatever state it is in. Raises RunError when the
    directory can't be read or written."""
    from mccore.report_markdown import render_report
    from mccore.report_megacontext_plots import draw_megacontext
    from mccore.report_plots import draw_plots, draw_tokenizer

    events = read_events(run.events_dir)
    data = collect(run, events)
    plots = []
    images = draw_plots(curves(events))
    if data["megacontext"] is not None:
        steps, refocuses = training_series(curves(events, step_metrics)), refocus_curves(events)
        contexts = snapshots(events, "working_context_snapshot")
        images |= draw_megacontext(steps, refocuses, data["megacontext"]["evaluations"], contexts)
    if measured := data["results"].get("tokenizer_eval"):
        images["tokenizer.png"] = draw_tokenizer(measured)
    for name, image in images.items():
        plots.append(run.report_dir / name)
        write_atomic(plots[-1], image)
    data["plots"] = [path.name for path in plots]
    for path in run.report_dir.glob("*.png"):
        if path not in plots:  # of an earlier report that had more to draw
            path.unlink(missing_ok=True)
    paths = ReportPaths(run.report_dir / "report.md", run.report_dir / "report.json", tuple(plots))
    write_atomic(paths.json, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(paths.markdown, render_report(data))
    return paths


def collect(run: RunDir, events: list[Event]) -> dict[str, Any]:
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
    missing = _missing(run, results, damaged, events)
    if megacontext is not None:
        # What a setting switches off is named in its own section alone.
        absent = [entry for entry in megacontext["missing"] if not entry["why"].startswith("megacontext.")]
        missing += [{**entry, "what": f"MegaContext: {entry['what']}"} for entry in absent]
    model = config.model
    known = model.n_embd > 0 and model.vocab_size > 0
    return {
        "version": REPORT_VERSION,
        "run": run.name,
        "recipe": config.recipe,
        "written": _utc(time.time()),
        "outcome": _outcome(run),
        "environment": _environment(run, events),
        "configuration": _changed(config),
        "model": {
            "depth": model.depth, "n_embd": model.n_embd, "n_head": model.n_head, "n_kv_head": model.n_kv_head,
            "max_seq_len": model.max_seq_len, "vocab_size": model.vocab_size,
            "parameters": {**asdict(count_parameters(model)), "total": count_parameters(model).total} if known else None,
            "flops_per_token": flops_per_token(model) if known else None,
        },
        "stages": [_stage(run, stage, events) for stage in config.stages],
        "token_loss": _token_losses(events),
        "seconds": _wall_seconds(events),
        "results": {stage: result for stage, result in results.items() if result is not None and stage != "report"},
        "samples": _samples(events),
        "alerts": [{"time": _utc(event.time), **event.data} for event in events if event.type == "alert"],
        "megacontext": megacontext,
        "violations": violations(describe_series(curves(events, banded_metrics)) + describe_series(refocuses)),
        "missing": missing,
    }  # fmt: skip


def plain_metrics(event: Event) -> dict[str, float]:
    """The metrics of an event that belong on the curves of any training."""
    names = _CURVES if event.type == "step" else ("val_loss",) if event.type == "eval" else ()
    return {name: event.metrics[name] for name in names if name in event.metrics}


def _token_losses(events: Iterable[Event]) -> dict[str, float]:
    """The language model's own loss at the end of every training stage where the objective has more parts than it."""
    found = {}
    for stage, metrics in curves(events).items():
        losses = [y for _, y in metrics.get("token_loss", ())[-_LAST:]]
        if losses and has_other_parts(metrics):
            found[stage] = sum(losses) / len(losses)
    return found


def curves(
    events: Iterable[Event], values: Callable[[Event], Mapping[str, float]] = plain_metrics
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What the plots show: stage -> metric -> points (training tokens, value) in order; `values` chooses what of an event.

    Where a run went back to a checkpoint, its later steps replace the earlier ones.
    """
    points: dict[str, dict[str, dict[int, float]]] = {}
    for event in events:
        if event.stage not in TRAINING_STAGES or event.rank != 0 or event.tokens is None:
            continue
        for name, value in values(event).items():
            series = points.setdefault(event.stage, {}).setdefault(name, {})
            # A resumed run repeats steps it had lost: what lies beyond this one is of the history that didn't count.
            if series and event.tokens <= next(reversed(series)):
                for tokens in [tokens for tokens in series if tokens >= event.tokens]:
                    del series[tokens]
            if value == value:
                series[event.tokens] = value
    return {
        stage: {name: [(float(x), y) for x, y in series.items()] for name, series in metrics.items() if series}
        for stage, metrics in points.items()
    }


# --- the parts --------------------------------------------------------------------------------------------------------


def _outcome(run: RunDir) -> dict[str, Any]:
    outcome = run.outcome()
    if outcome.state == "running" and all(run.completed(stage) for stage in run.config.stages if stage != "report"):
        return {"state": "finished", "stage": None, "message": ""}  # the report itself is what still runs
    return asdict(outcome)


def _stage(run: RunDir, stage: str, events: list[Event]) -> dict[str, Any]:
    """How one stage went: outcome, attempts, wall seconds over all attempts, and why it ended early."""
    mine = [event for event in events if event.stage == stage]
    attempts, seconds = 0, 0.0
    began: float | None = None
    last = 0.0
    for event in (event for event in mine if event.rank == 0):
        if event.type == "stage.start":
            if began is not None:  # the attempt before ended without a word
                seconds += last - began
            attempts, began = attempts + 1, event.time
        elif event.type == "stage.end":
            seconds += float(event.data.get("seconds") or 0.0)
            attempts += began is None  # it failed before it could say that it starts
            began = None
        last = event.time
    if began is not None:
        seconds += last - began
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
        "attempts": attempts,
        "seconds": seconds or None,
        "message": message,
        "reached": _reached(mine),
    }


def _reached(events: list[Event]) -> dict[str, Any] | None:
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


def _samples(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    """The last samples of every stage."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.type == "sample" and event.stage is not None:
            samples = found.setdefault(event.stage, [])
            if samples and samples[-1].step != event.step:
                samples.clear()
            samples.append(event)
    return {
        stage: [
            {"step": event.step, "prompt": event.data.get("prompt"), "text": event.data.get("text")}
            for event in samples
        ]
        for stage, samples in found.items()
    }


def _changed(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The settings that aren't the schema's defaults: path -> default and value."""
    set_here = flatten(config)
    return {
        path: {"default": default, "value": value}
        for path, (default, value) in differences(RunConfig(), config).items()
        if path in set_here
    }


def _environment(run: RunDir, events: list[Event]) -> dict[str, Any]:
    """The machine and the software. What a report of this run already says stays: it was there when the run was."""
    started = max((event.time for event in events if event.type == "run.start"), default=None)
    try:
        before = json.loads((run.report_dir / "report.json").read_bytes())["environment"]
        if isinstance(before, dict) and before.get("run_started") == started and before.get("during_run"):
            return before
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no earlier report, or none that can be read: it is about to be replaced
    return {
        "during_run": run.is_running(),
        "run_started": started,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "mccore": _version("mccore"),
        "torch": _version("torch"),
        "git_commit": _git_commit(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": [gpu.name for gpu in accelerators()],
        "gpu_memory_bytes": [gpu.memory_bytes for gpu in accelerators()],
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit that mccore's code is at, marked when files differ from it; None for an installed package."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed inside some other repository isn't versioned by it.
    if not git("ls-files", Path(__file__).name):
        return None
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit} (with changes)" if commit and changed else commit


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _missing(
    run: RunDir, results: Mapping[str, Any], damaged: Mapping[str, str], events: list[Event]
) -> list[dict[str, str]]:
    """What a reader may look for and not find, each with the reason."""
    missing: list[dict[str, str]] = []

    def add(what: str, why: str) -> None:
        missing.append({"what": what, "why": why})

    for stage in STAGES:
        if stage == "report":
            continue
        if stage in damaged:
            add(stage, damaged[stage])
        elif stage not in run.config.stages:
            add(stage, "not among the stages of this run")
        elif results[stage] is None:
            told = _stage(run, stage, events)
            not_run = "not reached yet" if run.is_running() else "the run didn't get that far"
            why = {"not run": not_run, "running": "still running"}.get(told["outcome"])
            add(stage, why or f"{told['outcome']}: {told['message']}".removesuffix(": "))
    for stage in ("chat_eval_mid", "chat_eval_sft"):
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
    add("CORE", "its benchmark data isn't part of this run")
    add("ChatCORE", "its benchmark data isn't part of this run; held-out questions of our own are reported instead")
    if not any(event.type == "step" for event in events):
        add("loss curves", "no training step was recorded")
    return missing


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def read_report(run: RunDir) -> dict[str, Any]:
    """The data of a report that was written. Raises RunError when there is none."""
    path = run.report_dir / "report.json"
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {path}: {error}", hint=f"write it again: mccore report {run.name}") from error
    assert isinstance(data, dict)
    return data
