"""The wording of a report's MegaContext section."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from mccore.config import TRAINING_STAGES
from mccore.events.alerts import band_words
from mccore.report.pages.markdown import table
from mccore.report.pages.words import pictures
from mccore.report.shape import BinEntry, EvaluationEntry, MegaContextEntry, MetricEntry, Report
from mccore.runs.lod_map import legend
from mccore.units import count, number, size


def render_megacontext(data: Report) -> Iterable[str]:
    """The section: settings, training, refocuses, evaluation, what is missing."""
    yield "## MegaContext"
    found = data.get("megacontext")
    if not found:
        yield "Not part of this run."
        return
    plots = data.get("plots", ())
    yield from _setup(found)
    yield from _training(found, plots)
    yield from _refocuses(found, plots)
    yield from _contexts(found, plots)
    for stage, evaluation in found["evaluations"].items():
        yield from evaluation_lines(stage, evaluation, plots)
    if found["missing"]:
        yield "### Not in this section"
        yield table(("what", "why"), [(entry["what"], entry["why"]) for entry in found["missing"]])


# --- parts -------------------------------------------------------------------------------------------------------------


def _setup(found: MegaContextEntry) -> Iterable[str]:
    settings, derived = found["settings"], found["derived"]
    if not found["enabled"]:
        yield "This run trained without MegaContext; what follows was measured on its model."
        return
    rows = [
        ("tree", f"blocks of {settings['block_size']}, up to LOD{settings['max_lod']}, `{settings['tree']}`"),
        ("allocator", f"`{settings['allocator']}`, {settings['wc_length']:,} entries"),
        ("GistNet, LensNet", f"{settings['gistnet']}; learns {settings['lens_target']}"),
        ("positions", settings["positional"]),
        (
            "training contexts",
            f"{settings['num_random_variants']} per sequence, the last {settings['recent_tokens']} tokens raw, "
            f"{settings['horizon']} of them judge",
        ),
    ]
    if derived:
        parts = ", ".join(
            f"{name} {count(value)}" for name, value in derived["parameters"].items() if value and name != "total"
        )
        flops = derived["flops_per_token"]
        lengths = list(dict.fromkeys((part["gist_only"], part["expanded"]) for part in derived["variant_lengths"]))
        rows += [
            ("their entries through a stage", " > ".join(f"{gist_only}/{expanded}" for gist_only, expanded in lengths)),
            ("parameters beside the GPT", f"{derived['parameters']['total']:,}: {parts}"),
            ("FLOPs per training token", f"{count(flops['total'])}, of them the plain pass {count(flops['plain'])}"),
        ]
    yield table(("what", "value"), rows)


def _training(found: MegaContextEntry, plots: Sequence[str]) -> Iterable[str]:
    rows = found["steps"]
    if rows:
        yield "### Training with it"
        yield (
            "Mean of the last tenth of a stage. Losses are those *at* entries of a kind; `token_loss` is the full context's, "
            "`lod_loss/0` that of token entries in the variants, which are the newest and a few far tokens of the same rows."
        )
        yield _by_stage(rows)
    yield from pictures("objective", plots)
    if timing := found["timing"]:
        parts = list(dict.fromkeys(part for each in timing.values() for part in each))
        yield "Where the forward pass of a step spends its time, in milliseconds, mean of the steps sampled:"
        yield table(
            ("stage", *(part.removesuffix("_ms").replace("_", " ") for part in parts)),
            [(stage, *(_number_or_blank(each.get(part)) for part in parts)) for stage, each in timing.items()],
        )


def _refocuses(found: MegaContextEntry, plots: Sequence[str]) -> Iterable[str]:
    rows = found["refocuses"]
    if not rows:
        return
    yield "### Refocuses"
    yield table(
        ("metric", "stage", "points", "mean", "lowest", "highest", "expected"),
        [
            (
                f"`{_name(row)}`",
                row["stage"],
                f"{row['points']:,}",
                f"{number(row['mean'])} {_unit(row)}",
                number(row["lowest"]),
                number(row["highest"]),
                band_words(row["band"]),
            )
            for row in rows
        ],
    )
    yield from pictures("refocus", plots, "_training", " over training")
    yield from pictures("refocus", plots, "", " by refocus")


def _contexts(found: MegaContextEntry, plots: Sequence[str]) -> Iterable[str]:
    if not found["contexts"] and not found["trees"]:
        return
    yield "### Tree and Working Context, as last seen"
    rows = []
    for stage, tree in found["trees"].items():
        nodes = ", ".join(f"LOD{lod}: {each:,}" for lod, each in enumerate(tree.get("nodes") or ()))
        stored = "" if tree.get("bytes") is None else f", {size(tree['bytes'])}"
        rows.append((stage, "tree", f"{_count(tree.get('history'))} tokens{stored}", nodes))
    for stage, context in found["contexts"].items():
        levels = ", ".join(
            f"LOD{each['level']}: {each['entries']:,} for {each['tokens']:,} tokens" for each in context["by_level"]
        )
        budget = "" if context["budget"] is None else f" of {context['budget']:,}"
        rows.append((stage, "Working Context", f"{_count(context['entries'])}{budget} entries", levels))
    yield table(("stage", "what", "size", "by level"), rows)
    for stage in found["contexts"]:
        name = f"mc_map_{stage}.png" if stage else "mc_map.png"
        if name in plots:
            yield f"![Levels of the Working Context over its history, {stage}]({name})"
    for stage, context in found["contexts"].items():
        if lines := context.get("map"):
            yield f"The last one of `{stage}` over its history, oldest first: {legend()}."
            yield "\n".join(("```text", *lines, "```"))


def evaluation_lines(stage: str, found: EvaluationEntry, plots: Sequence[str] = ()) -> Iterable[str]:
    """What an evaluation of focus found; `found` as `report.evaluation.read_evaluation` gives it."""
    yield f"### Evaluation of focus, {stage}"
    if notes := found["notes"]:
        said = (
            f"{name.replace('_', ' ')} {number(note) if isinstance(note, int | float) else note}"
            for name, note in notes.items()
        )
        yield ", ".join(said).capitalize() + "."
    if found["table"]:
        yield (
            "NLL in nat per token over the horizon; the difference is to the plain window, paired by sequence, with its "
            "standard error. Gap closed: 0 is the window, 1 the full context."
        )
        yield table(
            ("condition", "NLL", "difference", "standard errors from 0", "gap closed"),
            [
                (
                    row["condition"],
                    _with_error(row["nll"], row["stderr"], ".4f"),
                    _with_error(row["delta"], row["delta_stderr"] or None, "+.4f"),
                    f"{row['delta'] / row['delta_stderr']:+.1f}"
                    if row["delta"] is not None and row["delta_stderr"]
                    else "",
                    "" if row["gap_closed"] is None else f"{row['gap_closed']:.0%}",
                )
                for row in found["table"]
            ],
        )
    if focus := found["focus"]:
        measures = list(dict.fromkeys(name for each in focus.values() for name in each))
        yield (
            "Scores of each policy against the true utility of expanding a block. Gap closed: 0 is random focus, 1 the "
            "oracle, which picks on every second scored token for the others; `oracle_bound` picks on the very tokens that it "
            "is scored on, and part of its lead is luck."
        )
        yield table(
            ("policy", *(name.replace("_", " ") for name in measures)),
            [(policy, *(_number_or_blank(each.get(name)) for name in measures)) for policy, each in focus.items()],
        )
    if pairs := found["differences"]:
        yield "Other pairs, the first minus the second: below 0 the first predicts better."
        yield table(
            ("pair", "difference", "standard errors from 0"),
            [
                (row["pair"], _with_error(row["delta"], row["stderr"], "+.4f"), _in_errors(row["delta"], row["stderr"]))
                for row in pairs
            ],
        )
    yield from _where(found)
    for name, alt in ((f"mc_focus_{stage}.png", "Conditions against the plain window"),
                      (f"mc_where_{stage}.png", "Delta NLL by distance and by level")):  # fmt: skip
        if name in plots:
            yield f"![{alt}]({name})"
    if not found["table"] and not found["focus"]:
        yield "It left nothing that this report can read."


def _where(found: EvaluationEntry) -> Iterable[str]:
    """Delta NLL by distance and by level, a row for every bin and a column for every condition."""
    far, levels = found["by_distance"], found["by_lod"]
    if far or levels:
        yield (
            "Delta NLL, the loss above the full context's, by where the predicted token could be copied from: the newest place "
            "in the history where it follows the same token."
        )
    if far:
        yield _bins("tokens back", far, _distance)
    if levels:
        yield _bins("shown as", levels, lambda row: "" if row["lod"] is None else f"LOD{row['lod']:g}")


def _bins(head: str, rows: Sequence[BinEntry], name: Callable[[BinEntry], str]) -> str:
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    cells = {(name(row), row["condition"]): row for row in rows}
    lines = []
    for place in sorted({name(row): row for row in rows}.items(), key=lambda item: _order(item[1])):
        mine = [cells.get((place[0], condition)) for condition in conditions]
        counts = [row["tokens"] for row in mine if row is not None and row["tokens"] is not None]
        alike = (
            f"{counts[0]:,.0f}" if counts and len(set(counts)) == 1 else " / ".join(f"{count:,.0f}" for count in counts)
        )
        shown = ("" if row is None else _with_error(row["delta"], row["stderr"], "+.4f") for row in mine)
        lines.append((place[0], *shown, alike))
    return table((head, *(condition or "delta NLL" for condition in conditions), "tokens"), lines)


def _order(row: BinEntry) -> float:
    at = row["from"] if row["from"] is not None else row["lod"]
    return math.inf if at is None else float(at)


def _distance(row: BinEntry) -> str:
    if row["from"] is None:
        return "nowhere"
    return f"{row['from']:,.0f} and more" if row["to"] is None else f"{row['from']:,.0f} to {row['to'] - 1:,.0f}"


# --- words and numbers -------------------------------------------------------------------------------------------------


def _by_stage(rows: Sequence[MetricEntry]) -> str:
    """One line per metric, one column per stage."""
    stages = [stage for stage in TRAINING_STAGES if any(row["stage"] == stage for row in rows)]
    lines = []
    for name in dict.fromkeys(row["metric"] for row in rows):
        mine = {row["stage"]: row for row in rows if row["metric"] == name}
        some = next(iter(mine.values()))
        cells = []
        for stage in stages:
            row = mine.get(stage)
            shown = "" if row is None else number(row["end"])
            cells.append(f"**{shown}**" if row is not None and row["end_outside"] else shown)
        lines.append((f"`{_name(some)}`", *cells, _unit(some), band_words(some["band"])))
    return table(("metric", *stages, "unit", "expected"), lines)


def _name(row: MetricEntry) -> str:
    name: str = row["metric"]
    return name


def _unit(row: MetricEntry) -> str:
    unit: str = row["unit"]
    return "" if unit == "1" else unit.strip("{}").replace("{", "").replace("}", "")


def _with_error(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form) + ("" if error is None else f" ± {error:.4f}")


def _in_errors(value: float | None, error: float | None) -> str:
    return "" if value is None or not error else f"{value / error:+.1f}"


def _number_or_blank(value: float | None) -> str:
    return "" if value is None else number(value)


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
