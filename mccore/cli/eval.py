"""`mccore eval`: measure what trained models can do, beside what their own reports say."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mccore.cli.named_path import NamedPath
from mccore.config.stages import TEXT_STAGE
from mccore.errors import UsageError
from mccore.host.files import FileExists, write_theirs
from mccore.host.terminal import StatusLine, echo, echo_json

if TYPE_CHECKING:
    from mccore.eval.context.long_history import LongHistoryReport
    from mccore.eval.context.within_sequence import ContextReport
    from mccore.stages.memory.histories import Compared, Telling

_FOCUS = ("wc_length", "refocus_interval", "spans", "recent_tokens", "token_positions")  # options of sessions
_SUITE = ("sizes", "twins", *_FOCUS)  # options that suites have


@click.group("eval")
def evaluate() -> None:
    """Measure what trained models can do."""


@evaluate.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--suite", type=click.Choice(["short", "full"]), help="Measure all there is, and keep it for the report.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1024),
    metavar="TOKENS",
    help="Of histories that a suite asks questions in; default: 4,096 and 16,384, to 1,048,576 with full. Repeatable.",
)
@click.option("--rows", type=click.IntRange(2), help="Sequences or ends of histories; default: 128, or all there are.")
@click.option(
    "--history", type=click.IntRange(2), metavar="TOKENS", help="Evaluate far behind in long documents instead."
)
@click.option(
    "--twin", "twins", multiple=True, metavar="RUN", help="A run trained on tokens alone, for each RUN in order."
)
@click.option(
    "--horizon", type=click.IntRange(1), default=32, show_default=True, help="Tokens predicted behind a history."
)
@click.option(
    "--wc-length", type=click.IntRange(1), default=512, show_default=True, help="Entries of a Working Context."
)
@click.option(
    "--refocus-interval", type=click.IntRange(1), default=32, show_default=True, help="Tokens between refocuses."
)
@click.option("--spans", type=click.IntRange(1), default=2, show_default=True, help="Spans shown as tokens.")
@click.option(
    "--recent-tokens", type=click.IntRange(1), default=128, show_default=True, help="Newest tokens never gists."
)
@click.option("--token-positions", type=click.Choice(["absolute", "contiguous"]), help="Default: the run's.")
@click.option(
    "--every", type=click.IntRange(1), default=1300, show_default=True, help="Tokens between two ends in a document."
)
@click.option(
    "--offset", type=click.IntRange(0), default=0, show_default=True, help="Tokens by which all ends are moved."
)
@click.option(
    "--per-document", type=click.IntRange(1), default=24, show_default=True, help="Ends of a document, at most."
)
@click.option(
    "--chunks", type=click.IntRange(1), default=1, show_default=True, help="Horizons, one after another, at every end."
)
@click.option("--condition", "conditions", multiple=True, metavar="NAME", help="Only these, beside context and window.")
@click.option(
    "--also", multiple=True, metavar="NAME", help="Beside the usual ones: oracle, oracle_bound or full. Repeatable."
)
@click.option("--out", type=NamedPath(path_type=Path, dir_okay=False), help="Keep every loss in this .npz file.")
@click.option("--force", is_flag=True, help="Let --out replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def context(
    ctx: click.Context,
    runs: tuple[str, ...],
    suite: str | None,
    rows: int | None,
    history: int | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure what the Working Contexts of RUN's base model are worth.

    The same held-out tokens are predicted with Working Contexts, with windows of as many entries, and with every control:
    gists zeroed, swapped or mean-pooled, blocks chosen at random, by recency, BM25, attention, LensNet, or by an oracle.

    Within the sequence length of training by default; with --history far behind in long documents, as sessions read them.
    Several runs are averaged row by row first. Standard errors go by document: rows of one document aren't independent.

    With --suite each run is measured on all that a memory is for: held-out text, questions about histories (needles,
    associations, copies, variables), names of other files, and what a token costs. The report of the run tells it, too.
    """
    typed = [name for name in given if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    _check_options(ctx, typed, suite, history)
    if suite is not None:
        if rows is not None or out is not None:
            raise UsageError("--rows and --out have no effect with --suite", hint="give --history in its place")
        focus = {name: given[name] for name in _FOCUS if name in typed}
        _suite(runs, given["twins"], suite, given["sizes"], {"wc_length": None, **focus}, as_json)
        return
    if out is not None and out.is_file() and not force:  # said before hours of work
        raise FileExists(out)
    if history is None:
        about, reports = _within_sequence(runs, rows or 128)
    else:
        about, reports = _far_behind(runs, rows, {**given, "history": history})

    from mccore.eval.context.catalogue import LONG_HISTORY, WITHIN_SEQUENCE
    from mccore.eval.context.summary import summarize_comparison
    from mccore.stages.memory.histories import RECALL_K

    catalogue = WITHIN_SEQUENCE if history is None else LONG_HISTORY
    summary = {**about, **summarize_comparison(reports, catalogue, RECALL_K)}
    if out is not None:
        write_theirs(out, _arrays(runs, reports), overwrite=force)
    if as_json:
        echo_json(summary)
    else:
        for line in _summary_lines(summary):
            echo(line)


def _check_options(ctx: click.Context, typed: Sequence[str], suite: str | None, history: int | None) -> None:
    """Raise UsageError for an option that has no effect on what is measured."""
    if suite is not None and history is not None:
        raise UsageError("a suite has histories of its own", hint="leave out --history, or --suite")
    for name in typed:
        option = next(o.opts[0] for o in ctx.command.params if o.name == name)
        if suite is not None and name not in _SUITE:
            raise UsageError(f"{option} has no effect with --suite", hint="give --history in its place")
        if suite is None and name == "sizes":
            raise UsageError(f"{option} has an effect with --suite only", hint="give a suite: --suite short")
        if suite is None and history is None:
            raise UsageError(f"{option} has an effect with --history only", hint="give a history: --history 6000")


def _compared(runs: Sequence[str], twins: Sequence[str]) -> list[Compared]:
    from mccore.stages.memory.histories import Compared

    if twins and len(twins) != len(runs):
        raise UsageError(f"{len(twins)} twins for {len(runs)} runs", hint="give one for each run, in their order")
    return [Compared(run, twins[number] if twins else None) for number, run in enumerate(runs)]


def _telling(line: StatusLine) -> Telling:
    from mccore.stages.memory.histories import Telling

    return Telling(line.show, lambda text: echo(text, err=True))


def _suite(
    runs: Sequence[str], twins: Sequence[str], suite: str, sizes: Sequence[int], focus: dict[str, Any], as_json: bool
) -> None:
    """Measure runs one by one; each keeps what was found, and its report tells it when it is next written."""
    from mccore.report.pages.suite import suite_lines
    from mccore.report.suite import NAME
    from mccore.stages.memory.histories import FocusChoices, base_of
    from mccore.stages.memory.suite import PLANS, measure_suite

    plan, line = PLANS[suite], StatusLine()
    if sizes:
        plan = replace(plan, sizes=tuple(sorted(set(sizes))))
    every = []
    for each in _compared(runs, twins):
        found = measure_suite(each, suite, plan, FocusChoices(**focus), _telling(line))
        line.clear()
        base_of(each.run).write_result(NAME, found)
        every.append(found)
        if not as_json:
            echo("\n\n".join(suite_lines(found)))
            echo(f"\n`mccore report {each.run}` puts this into the report of the run, with pictures.")
    if as_json:
        echo_json(every)


def _within_sequence(runs: Sequence[str], rows: int) -> tuple[dict[str, Any], list[ContextReport]]:
    from mccore.eval.context.summary import mean_of
    from mccore.runtime.runtime import look_at
    from mccore.stages.focus import compare_contexts
    from mccore.stages.memory.histories import base_of

    reports, line = [], StatusLine()
    for name in runs:
        run = base_of(name)
        runtime = look_at(run, TEXT_STAGE)
        opened = runtime.open_model(TEXT_STAGE, aux_dtype=runtime.aux_dtype)
        if opened.nets is None:
            raise UsageError(
                f"the run {run.name!r} was trained without MegaContext: it has no gists and no focus",
                hint="train one with `mccore run tiny --mc`",
            )
        line.show(f"{run.name}: {rows} rows")
        reports.append(compare_contexts(runtime, opened.gpt, opened.nets, rows))
    line.clear()
    first = reports[0]
    mean = mean_of(reports).losses
    if any(report.geometry != first.geometry for report in reports):
        raise UsageError("the runs have contexts of different sizes", hint="evaluate them one by one")
    geometry = first.geometry
    return {
        "runs": list(runs),
        "history": None,
        "tokens": geometry.tokens,
        "entries": geometry.entries,
        "horizon": geometry.horizon,
        "by_distance": replace(first, losses=mean).by_distance(),
        "by_lod": first.by_lod() if len(reports) == 1 else [],  # models show other places at other levels
    }, reports


def _far_behind(
    runs: Sequence[str], rows: int | None, given: dict[str, Any]
) -> tuple[dict[str, Any], list[LongHistoryReport]]:
    from mccore.stages.memory.histories import FocusChoices, HistoryChoices, measure_far_behind

    compared, line = _compared(runs, given["twins"]), StatusLine()
    focus = FocusChoices(**{name: given[name] for name in _FOCUS})
    choices = HistoryChoices(**{name: value for name, value in given.items() if name not in _SUITE})
    found = measure_far_behind(compared, rows, choices, focus, _telling(line))
    line.clear()
    return found


@evaluate.command("fit-lookup")
@click.argument("name", metavar="RUN")
@click.option("--stage", help="Stage whose newest checkpoint is meant; default: the last one that trained.")
def fit_lookup_command(name: str, stage: str | None) -> None:
    """Fit how much the lookup of RUN's sessions may say.

    Training does it at the end of every stage. For a model that was trained before there was a lookup, or whose file of it was
    lost, this does it again: on validation documents that are set apart, which `mccore eval context` leaves alone.
    """
    from mccore.data.corpora.catalogue import open_corpus
    from mccore.errors import DataError
    from mccore.host import paths
    from mccore.runtime.open import find_checkpoint, find_run, open_model
    from mccore.stages.lookup import fit_lookup

    run, line = find_run(name), StatusLine()
    opened = open_model(find_checkpoint(run, stage)[1])
    corpus = open_corpus(run.config.data.corpus, cache_dir=paths.cache_dir())
    found = fit_lookup(opened, corpus, lambda done, total: line.show(f"{name}: {done} of {total} documents"))
    line.clear()
    if found is None:
        raise DataError(
            "no validation document that is set apart for the lookup is longer than a Working Context",
            hint="train on a corpus with longer documents",
        )
    echo(
        f"{name}: fitted to {found['tokens']:,} tokens of {found['documents']} documents; there "
        f"{found['nll']:.4f} -> {found['nll_with_lookup']:.4f} nats per token"
    )


def _arrays(runs: Sequence[str], reports: Sequence[Any]) -> bytes:
    """A .npz file: losses [R, H] of every run and condition, and the document of each row."""
    import numpy as np

    arrays = {
        f"{run}/{name}": values
        for run, report in zip(runs, reports, strict=True)
        for name, values in report.losses.items()
    }
    content = io.BytesIO()
    np.savez(content, documents=reports[0].documents, **arrays)
    return content.getvalue()


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary as a person reads it."""
    runs = ", ".join(summary["runs"])
    where = f"{summary['rows']} rows of {summary['documents']} documents, the last {summary['horizon']} tokens of each predicted"
    if summary["history"] is None:
        lines = [f"{runs}: {where}; {summary['tokens']:,} tokens in {summary['entries']:,} entries", ""]
    else:
        lines = [
            f"{runs}: {where}; histories of {summary['history']:,} tokens",
            f"Working Contexts of {summary['entries']:.1f} entries: {summary['far_tokens']:.1f} tokens from far behind, "
            f"a tail of {summary['tail']:.1f}, the rest gists",
            "",
        ]
    gaps = summary["gap_closed"]
    lines.append(f"{'condition':<20}{'NLL, nats':>20}{'of the gap window to full':>28}")
    lines += [
        f"{name:<20}{_shown(nll, ''):>20}{_shown(gaps.get(name), ''):>28}" for name, nll in summary["nll"].items()
    ]
    lines += ["", f"{'difference, nats per token':<34}{'mean and error':>20}   runs"]
    for pair, found in summary["differences"].items():
        lines.append(f"{pair:<34}{_shown(found, '+'):>20}   {' '.join(f'{value:+.4f}' for value in found['runs'])}")
    for title, key in (("tokens back", "by_distance"), ("level", "by_lod")):
        lines += _curve(title, summary.get(key, []))
    lines += _table("where the wanted word stands", "place", summary.get("by_place", []))
    lines += _table("kind of row", "kind", summary.get("by_kind", []))
    if summary["ranking"]:
        columns = list(next(iter(summary["ranking"].values())))
        lines += ["", "how well a choice ranks what it could show", f"{'':<20}" + "".join(f"{c:>18}" for c in columns)]
        for name, found in summary["ranking"].items():
            lines.append(f"{name:<20}" + "".join(f"{_three_digits(found[column]):>18}" for column in columns))
    return lines


def _curve(title: str, parts: Sequence[dict[str, Any]]) -> list[str]:
    """Differences from the full context by the place that a token could be copied from, a line each."""
    lines = ["", f"delta NLL by {title} of the place that a token could be copied from"] if parts else []
    for part in parts:
        if "lod" in part:
            place = f"LOD{part['lod']}"
        else:
            place = "nowhere" if part["from"] is None else f"{part['from']:,} to {part['to'] or 'the start'}"
        mean = _shown({"mean": part["delta"], "stderr": part["stderr"]}, "+")
        lines.append(f"   {part['condition']:<18}{place:<22}{mean:>20}   {part['tokens']:,} tokens")
    return lines


def _table(title: str, key: str, parts: Sequence[dict[str, Any]]) -> list[str]:
    """Differences from the window by part, a line for each part and condition."""
    lines = ["", f"minus the window, nats per token, by {title}"] if parts else []
    for part in parts:
        mean = _shown({"mean": part["delta"], "stderr": part["stderr"]}, "+")
        lines.append(f"   {part[key]:<40}{part['condition']:<22}{mean:>20}   {part['share']:.3f} of the tokens")
    return lines


def _shown(found: dict[str, Any] | None, sign: str) -> str:
    if found is None or found["mean"] is None:
        return "-"
    error = "?" if found["stderr"] is None else f"{found['stderr']:.4f}"
    return f"{found['mean']:{sign}.4f} +- {error}"


def _three_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
