"""`mccore eval`: measure what trained models can do, beside what their own reports say."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    import numpy as np
    from numpy.typing import NDArray

    from mccore.eval.context.long_history import LongHistoryReport
    from mccore.eval.context.within_sequence import ContextReport
    from mccore.runs.rundir import RunDir

FIT_ROWS = 8  # of a document, for what conditions that look up are fitted to
KIND_TOKENS = 256  # newest tokens of a row that say what kind of text it is

RECALL_K = (1, 2, 8)  # most useful candidates, of which a choice is asked how many it has found


@click.group("eval")
def evaluate() -> None:
    """Measure what trained models can do."""


@evaluate.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
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
    """
    if out is not None and out.is_file() and not force:  # said before hours of work
        raise FileExists(out)
    if history is None:
        typed = [name for name in given if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
        if typed:
            option = next(o.opts[0] for o in ctx.command.params if o.name == typed[0])
            raise UsageError(f"{option} has an effect with --history only", hint="give a history: --history 6000")
        about, reports = _within_sequence(runs, rows or 128)
    else:
        about, reports = _far_behind(runs, rows, _Choices(history=history, **given))

    from mccore.eval.context.catalogue import LONG_HISTORY, WITHIN_SEQUENCE
    from mccore.eval.context.summary import summarize_comparison

    catalogue = WITHIN_SEQUENCE if history is None else LONG_HISTORY
    summary = {**about, **summarize_comparison(reports, catalogue, RECALL_K)}
    if out is not None:
        write_theirs(out, _arrays(runs, reports), overwrite=force)
    if as_json:
        echo_json(summary)
    else:
        for line in _summary_lines(summary):
            echo(line)


@dataclass(frozen=True)
class _Choices:
    """The options of evaluations far behind in documents."""

    history: int
    horizon: int
    twins: tuple[str, ...]
    wc_length: int
    refocus_interval: int
    spans: int
    recent_tokens: int
    token_positions: str | None
    every: int
    offset: int
    per_document: int
    chunks: int
    conditions: tuple[str, ...]
    also: tuple[str, ...]

    def wanted(self) -> list[str] | None:
        """The conditions to evaluate; None for the usual ones."""
        from mccore.eval.context.catalogue import LONG_HISTORY

        if not self.conditions and not self.also:
            return None
        usual = [each.name for each in LONG_HISTORY if not each.on_demand]
        return [*(self.conditions or usual), *self.also]


def _within_sequence(runs: Sequence[str], rows: int) -> tuple[dict[str, Any], list[ContextReport]]:
    from mccore.eval.context.summary import mean_of
    from mccore.runtime.runtime import look_at
    from mccore.stages.focus import compare_contexts

    reports, line = [], StatusLine()
    for name in runs:
        run = _base_of(name)
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
    runs: Sequence[str], rows: int | None, choices: _Choices
) -> tuple[dict[str, Any], list[LongHistoryReport]]:
    import numpy as np

    from mccore.eval.context.far.words import REPETITION, by_kind, by_place, places, repetition
    from mccore.eval.context.summary import mean_of

    if choices.twins and len(choices.twins) != len(runs):
        raise UsageError(
            f"{len(choices.twins)} twins for {len(runs)} runs", hint="give one for each run, in their order"
        )
    line = StatusLine()
    found = [
        _behind(name, choices.twins[number] if choices.twins else None, rows, choices)
        for number, name in enumerate(runs)
    ]
    line.clear()
    reports, (ids, kinds) = [report for report, _, _ in found], found[0][1:]
    first = reports[0]
    mean = mean_of(reports)
    place = places(ids, choices.horizon, choices.wc_length - choices.refocus_interval)
    repeated = np.array([REPETITION[kind] for kind in repetition(ids, choices.horizon)])
    return {
        "runs": list(runs),
        "history": choices.history,
        "horizon": choices.horizon,
        "entries": first.entries,
        "far_tokens": first.far_tokens,
        "tail": first.tail,
        "by_place": by_place(mean.losses, place, mean.documents, "window"),
        "by_kind": by_kind(mean.losses, {"text": kinds, "repetition": repeated}, mean.documents, "window"),
    }, reports


def _behind(
    name: str, twin: str | None, limit: int | None, choices: _Choices
) -> tuple[LongHistoryReport, NDArray[np.int64], NDArray[np.str_]]:
    """One run, far behind in the held-out documents of its corpus that no lookup is fitted to: what was found, the rows, and
    the kind of text that each ends in."""
    import numpy as np

    from mccore.config import Choice
    from mccore.data.corpora.catalogue import open_corpus
    from mccore.eval.context.far.row import LongHistoryOptions
    from mccore.eval.context.far.words import text_kind
    from mccore.eval.context.long_history import evaluate_long_histories
    from mccore.eval.context.rows import HistoryRows
    from mccore.host import paths
    from mccore.runtime.open import find_checkpoint, open_model
    from mccore.runtime.sessions import session_options
    from mccore.stages.lookup import is_fitted_to

    run, line = _base_of(name), StatusLine()
    opened = open_model(find_checkpoint(run, TEXT_STAGE)[1])
    options = session_options(
        opened.config.megacontext,
        allocator=Choice(name="spans", options={"spans": choices.spans, "recent_tokens": choices.recent_tokens}),
        wc_length=choices.wc_length,
        refocus_interval=choices.refocus_interval,
        token_positions=choices.token_positions,
        search="ngram",
    )
    sessions, tokenizer, other = opened.sessions(options), opened.tokenizer, None
    if twin is not None:
        of_twin = open_model(find_checkpoint(_base_of(twin), TEXT_STAGE)[1])
        other = of_twin.gpt
        if of_twin.meta.tokenizer != opened.meta.tokenizer:
            raise UsageError(f"{twin} has another tokenizer than {name}", hint="train the twin on the run's tokenizer")
    picked = HistoryRows(
        choices.history, choices.horizon, choices.every, choices.offset, choices.per_document, choices.chunks
    )
    apart, others = [], []
    for document in open_corpus(run.config.data.corpus, cache_dir=paths.cache_dir()).documents("val"):
        (apart if is_fitted_to(document) else others).append(document.text)
    ids, documents = picked.of(np.array([tokenizer.bos_id, *tokenizer.encode_to_array(text)]) for text in others)
    few = replace(picked, per_document=FIT_ROWS, chunks=1)
    fit_rows, _ = few.of(np.array([tokenizer.bos_id, *tokenizer.encode_to_array(text)]) for text in apart)
    ids, documents = ids[:limit], documents[:limit]
    kinds = np.array([text_kind(tokenizer.decode(row[-KIND_TOKENS:].tolist())) for row in ids])
    if sessions.missing_lookup is not None:
        echo(f"({name}: {sessions.missing_lookup})", err=True)
    report = evaluate_long_histories(
        sessions.model,
        lambda: sessions.new().tree,
        ids,
        documents.tolist(),
        LongHistoryOptions(choices.horizon, choices.wanted(), other, fit_rows, choices.spans),
        on_progress=lambda done: line.show(f"{name}: {done} of {len(ids)} rows"),
    )
    return report, ids, kinds


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


def _base_of(name: str) -> RunDir:
    """A run with a base model. Raises UsageError, CheckpointError."""
    from mccore.runtime.open import find_checkpoint, find_run

    run = find_run(name)
    find_checkpoint(run, TEXT_STAGE)
    return run


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
