"""The wording of a report: Markdown from the data of `report.json`."""

from __future__ import annotations

from collections.abc import Iterable

from mccore.config.stages import REPORT_STAGE, TRAINING_STAGES, evaluations
from mccore.events.alerts import band_words
from mccore.report.pages.evaluation import benchmark_lines, chat_lines, core_lines, sample_lines, text_lines
from mccore.report.pages.markdown import table
from mccore.report.pages.megacontext import render_megacontext
from mccore.report.pages.rewards import reward_lines
from mccore.report.pages.suite import section_lines
from mccore.report.pages.tokenizer import tokenizer_lines
from mccore.report.pages.training import training_lines
from mccore.report.pages.words import accuracy_text, code_text, duration_text, percent_text, section
from mccore.report.shape import AlertEntry, Report
from mccore.units import number, size


def render_report(data: Report) -> str:
    """The whole report."""
    results = data["results"]
    parts = [
        *section("the summary", lambda: _summary(data)),
        *section("what is missing", lambda: _missing(data)),
        *section("the stages", lambda: _stages(data)),
        *section("the environment", lambda: _environment(data)),
        *section("the configuration", lambda: _configuration(data)),
        *section("the model", lambda: _model(data)),
        *section("the tokenizer", lambda: tokenizer_lines(data)),
        *section("the training stages", lambda: training_lines(data)),
        *section("reinforcement learning", lambda: reward_lines(results, data["rewards"])),
        *section("the evaluation of texts", lambda: text_lines(results)),
        *section("CORE", lambda: core_lines(results)),
        *section("the evaluation of chats", lambda: chat_lines(results)),
        *section("the benchmarks", lambda: benchmark_lines(results)),
        *section("the samples", lambda: sample_lines(results, data["samples"])),
        *section("MegaContext", lambda: render_megacontext(data)),
        *section("the suite of Working Contexts", lambda: _suite(data)),
    ]
    return "\n\n".join(parts) + "\n"


def _suite(data: Report) -> Iterable[str]:
    found = data["context_suite"]
    return () if found is None else section_lines(found, data.get("plots", ()))


def render_summary(data: Report) -> str:
    """The first page: outcome, main figures, stages, what is missing."""
    parts = [
        *section("the summary", lambda: _summary(data)),
        *section("what is missing", lambda: _missing(data)),
        *section("the stages", lambda: _stages(data)),
    ]
    return "\n\n".join(parts) + "\n"


# --- sections ---------------------------------------------------------------------------------------------------------


def _summary(data: Report) -> Iterable[str]:
    yield f"# Report of {data['run']}"
    outcome = data["outcome"]
    recipe = f"Recipe `{data['recipe']}`. " if data["recipe"] else ""
    line = f"{recipe}Outcome: **{outcome['state']}**"
    if outcome["stage"]:
        line += f" in {outcome['stage']}"
    if outcome["message"]:
        line += f" ({outcome['message']})"
    yield f"{line}. Written {data['written']}."
    if outcome["state"] != "finished":
        yield "**This run was cut short or goes on: what follows covers only what it reached.**"
    yield table(("figure", "value"), [*figures(data), ("wall clock", duration_text(data["seconds"]))])


def figures(data: Report) -> list[tuple[str, str]]:
    """The main figures: size, training, and what was measured of each model."""
    results, model = data["results"], data["model"]
    rows: list[tuple[str, str]] = []
    if model["parameters"]:
        rows.append(("parameters", f"{model['parameters']['total']:,}"))
    trained = [results[stage] for stage in TRAINING_STAGES if results.get(stage)]
    if trained and all("tokens" in result and "flops" in result for result in trained):  # unknown of an imported model
        tokens, flops = (sum(result[name] for result in trained) for name in ("tokens", "flops"))
        rows.append(("training tokens, FLOPs", f"{tokens:,}, {flops:.3g}"))
    for spec in evaluations(chat=False):
        if measured := results.get(spec.name):
            rows.append(
                (
                    f"{spec.evaluates}: bits per byte",
                    f"{measured['val_bpb']:.4f} over {measured['bytes']:,} bytes",
                )
            )
            if core := (measured.get("core") or {}).get("core"):
                rows.append((f"{spec.evaluates}: CORE of {core['tasks']} tasks", number(core["value"])))
    for spec in evaluations(chat=True):
        name, result = spec.evaluates, results.get(spec.name) or {}
        if chatcore := (result.get("benchmarks") or {}).get("chatcore"):
            rows.append((f"{name}: ChatCORE", number(chatcore["value"])))
        if choice := result.get("choice"):
            rows.append(
                (
                    f"{name}: held-out multiple choice",
                    f"{accuracy_text(choice)}, chance {percent_text(choice['chance'])}, n = {choice['n']}",
                )
            )
        for task, found in (result.get("generated") or {}).items():
            rows.append((f"{name}: {task}, free answers", f"{accuracy_text(found)}, n = {found['n']}"))
    return rows


def _missing(data: Report) -> Iterable[str]:
    if data["missing"]:
        yield "## Missing"
        yield table(("what", "why"), [(entry["what"], entry["why"]) for entry in data["missing"]])
    if data["alerts"]:
        yield "## Alerts"
        yield (
            "Metrics that stayed outside their band (docs/events.md), or no events at all; **bold** where that was so at "
            "the end."
        )
        yield table(
            ("metric", "stage", "value", "expected", "since", "until", "look at"),
            [_alert_row(entry) for entry in data["alerts"]],
        )


def _alert_row(entry: AlertEntry) -> tuple[str, ...]:
    value = number(entry["value"])
    return (
        f"`{entry['metric']}`" if entry["until"] else f"**`{entry['metric']}`**",
        entry["stage"] or "",
        f"{value} at step {entry['step']}" if entry["step"] is not None else value,
        band_words(entry["band"]),
        entry["began"],
        entry["until"] or "the end",
        entry["advice"],
    )


def _stages(data: Report) -> Iterable[str]:
    yield "## Stages"
    rows = []
    for stage in data["stages"]:
        outcome = stage["outcome"] + (f": {stage['message']}" if stage["message"] else "")
        if stage["stage"] == REPORT_STAGE and stage["outcome"] in ("running", "not run"):
            outcome = "this report"
        rows.append((stage["stage"], outcome, str(stage["attempts"] or ""), duration_text(stage["seconds"])))
    rows.append(("in total", "", "", duration_text(data["seconds"])))
    yield table(("stage", "outcome", "starts", "wall clock"), rows)


def _environment(data: Report) -> Iterable[str]:
    found = data["environment"]
    yield "## Environment"
    if not found["during_run"]:
        yield "The machine this report was written on, after the run; the run itself may have been elsewhere."
    gpus = [f"{name}, {size(memory)}" for name, memory in zip(found["gpus"], found["gpu_memory_bytes"], strict=True)]
    yield table(
        ("what", "value"),
        [
            ("mccore, torch, Python", f"{found['mccore']}, {found['torch']}, {found['python']}"),
            ("commit of mccore", found["git_commit"] or "installed package, no commit"),
            ("system", found["system"]),
            ("CPU", f"{found['cpu']}, {found['cores']} cores usable"),
            ("memory", "unknown" if found["memory_bytes"] is None else size(found["memory_bytes"])),
            ("GPU", "; ".join(gpus) or "none"),
        ],
    )


def _configuration(data: Report) -> Iterable[str]:
    yield "## Configuration"
    changed = data["configuration"]
    if not changed:
        yield "All defaults."
        return
    yield "What differs from the defaults; `run.json` has everything. A default of 0 often means: derived."
    yield table(
        ("setting", "value", "default"),
        [(f"`{path}`", code_text(entry["value"]), code_text(entry["default"])) for path, entry in changed.items()],
    )


def _model(data: Report) -> Iterable[str]:
    model = data["model"]
    yield "## Model"
    yield (
        f"{model['depth']} layers of width {model['n_embd']}, {model['n_head']} heads ({model['n_kv_head']} for keys and "
        f"values), sequences of {model['max_seq_len']} tokens, {model['vocab_size']:,} rows of vocabulary."
    )
    if parameters := model["parameters"]:
        rows = [(name.replace("_", " "), f"{count:,}") for name, count in parameters.items()]
        yield table(("parameters", "count"), [*rows, ("FLOPs per training token", f"{model['flops_per_token']:,}")])
