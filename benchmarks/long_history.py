"""What Working Contexts gain over raw windows of as many entries, far behind in long documents, with every control.

    python benchmarks/long_history.py RUN [RUN ...] [--twin RUN ...] [--history 6000] [--also oracle full] [--out FILE.npz]

RUN is the name of a run with --mc whose base stage has ended, or a checkpoint directory; a twin was trained on the same
tokens without --mc, one for each run, in their order. Rows are ends of histories in the validation documents of the run's
corpus, evenly spaced, at most `--per-document` of each. Differences are paired by row; several runs are averaged by row first.
Standard errors go by row, and by document, which is the one to believe: rows of one document overlap. `oracle` takes a pass
for every span of the history and adds how well each router ranks them; `full` is for models trained on rows as long as the
history. With `--chunks 4` every end stands for four, a horizon apart: delta NLL over four horizons, with a refocus before each.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from mccore import plugins
from mccore.config import Choice, RunConfig
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import MccoreError
from mccore.eval.context.long_history import CONDITIONS, ON_DEMAND, LongHistoryReport, evaluate_long_histories
from mccore.eval.context.statistics import Estimate, estimate
from mccore.host.paths import runs_dir
from mccore.megacontext.tree.tree import Tree
from mccore.runs.checkpoints import latest
from mccore.runtime.models import load_gpt
from mccore.runtime.sessions import Overrides, load_context_model

PAIRS = (
    ("context", "window"),
    ("context", "window_full"),
    ("context", "twin"),
    ("context", "twin_full"),
    ("context", "tail"),
    ("context", "nothing_found"),
    ("gists_zeroed", "context"),
    ("gists_swapped", "context"),
    ("history_swapped", "context"),
    ("absolute", "context"),
    ("contiguous", "context"),
    ("context", "random"),
    ("context", "recency"),
    ("context", "bm25"),
    ("context", "raw_attention"),
    ("context", "lens"),
    ("context", "oracle"),
    ("oracle_bound", "oracle"),
    ("lens", "random"),
    ("lens", "recency"),
    ("lens", "bm25"),
    ("lens", "raw_attention"),
    ("context", "full"),
    ("window", "full"),
    ("nothing_found", "window"),
    ("lens", "window"),
    ("bm25", "window"),
    ("random", "window"),
    ("window", "twin"),
)


def checkpoint_of(name: str) -> Path:
    """The newest base checkpoint of a run, or the directory itself."""
    if (Path(name) / "meta.json").exists():
        return Path(name)
    found = latest(runs_dir() / name / "checkpoints" / "base")
    if found is None:
        raise SystemExit(f"the run {name!r} has no base checkpoint: train one, `mccore run tiny --mc --name {name}`")
    return found


def validation_rows(
    config: RunConfig, tokenizer: Tokenizer, length: int, step: int, first: int, most: int, chunks: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [R, length] that end every `step` tokens in the validation documents, each end `chunks` times, a horizon apart,
    and the document of each row."""
    rows, documents = [], []
    for number, document in enumerate(open_corpus(config.data.corpus).documents("val")):
        ids = np.array([tokenizer.bos_id, *tokenizer.encode_to_array(document.text)], dtype=np.int64)
        ends = np.arange(length + first, len(ids) + 1 - (chunks - 1) * horizon, step)
        if len(ends) > most:
            ends = ends[np.linspace(0, len(ends) - 1, most).astype(int)]
        ends = (ends[:, None] + np.arange(chunks) * horizon).ravel()
        rows += [ids[end - length : end] for end in ends]
        documents += [number] * len(ends)
    if not rows:
        raise SystemExit(f"no validation document of {config.data.corpus} has {length} tokens: lower --history")
    return np.stack(rows), np.array(documents)


def evaluate(args: argparse.Namespace, name: str, twin: str | None) -> LongHistoryReport:
    path = checkpoint_of(name)
    overrides = Overrides(
        allocator=Choice(name="spans", options={"spans": args.spans, "recent_tokens": args.recent_tokens}),
        wc_length=args.wc_length,
        refocus_interval=args.interval,
        token_positions=args.token_positions,
        search="ngram",
    )
    model, _, meta = load_context_model(path, overrides=overrides)
    config = RunConfig.model_validate(meta.config)
    tokenizer = Tokenizer.load(path.parents[2] / "tokenizer")
    gpt = None
    if twin is not None:
        gpt, other = load_gpt(checkpoint_of(twin))
        if other.tokenizer != meta.tokenizer:
            raise SystemExit(f"{twin} has another tokenizer than {name}")
    rows, documents = validation_rows(
        config,
        tokenizer,
        args.history + args.horizon,
        args.step,
        args.first,
        args.per_document,
        args.chunks,
        args.horizon,
    )
    rows, documents = rows[: args.rows], documents[: args.rows]
    ram = plugins.load("tree", "ram")

    def new_tree() -> Tree:
        return Tree(ram.build(ram.options(), model.encoder.spec()), model.encoder)

    return evaluate_long_histories(
        model,
        new_tree,
        rows,
        documents.tolist(),
        horizon=args.horizon,
        conditions=wanted_conditions(args),
        twin=gpt,
        oracle_spans=args.spans,
        on_progress=lambda done: print(f"\r{name}: {done} of {len(rows)} rows", end="", file=sys.stderr),
    )


def wanted_conditions(args: argparse.Namespace) -> list[str] | None:
    if args.conditions is None and not args.also:
        return None
    usual = [name for name in CONDITIONS if name not in ON_DEMAND] if args.conditions is None else args.conditions
    return [*usual, *args.also]


def stderr_of(found: Estimate) -> str:
    return "?" if found.stderr is None else f"{found.stderr:.4f}"


def shown(found: Estimate | None) -> str:
    return "-" if found is None or found.mean is None else f"{found.mean:.3f} +- {stderr_of(found)}"


def mean_report(reports: list[LongHistoryReport]) -> LongHistoryReport:
    """The first run's report with losses averaged over all runs, row by row."""
    first = reports[0]
    losses = {
        name: np.mean([report.losses[name] for report in reports], axis=0)
        for name in first.losses
        if all(name in report.losses for report in reports)
    }
    return dataclasses.replace(first, losses=losses)


def print_shares(reports: list[LongHistoryReport]) -> None:
    """What closes which gap, and how well routers rank the spans of a history."""
    mean = mean_report(reports)
    for name in mean.nll:
        closed = mean.gap_closed(name)
        if closed is not None and name not in ("window", "full"):
            print(f"{name:16s} of the gap from the window to the full history: {shown(closed)}")
    for run, report in enumerate(reports):
        if report.utilities is None:
            continue
        print(f"run {run}: {report.utilities.shape[1]} candidates; Spearman, recall@2, recall@8, of random to oracle")
        for name in report.scores:
            condition = "context" if name == "ngram" else name
            found = (report.rank_correlation(name), report.recall(name, 2), report.recall(name, 8))
            print(f"   {name:14s} " + "  ".join(map(shown, (*found, report.focus_gap_closed(condition)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN")
    add("--twin", nargs="*", default=[], metavar="RUN")
    add("--history", type=int, default=6000, help="tokens of a history")
    add("--horizon", type=int, default=32, help="tokens that are predicted behind it")
    add("--wc-length", type=int, default=512)
    add("--interval", type=int, default=32)
    add("--spans", type=int, default=2)
    add("--recent-tokens", type=int, default=128)
    add("--token-positions", choices=["absolute", "contiguous"], default=None)
    add("--step", type=int, default=1300, help="tokens between two ends of histories in a document")
    add("--first", type=int, default=0, help="tokens by which all ends are moved: other rows of the same documents")
    add("--per-document", type=int, default=24)
    add("--chunks", type=int, default=1, help="horizons, one after another, behind every end")
    add("--rows", type=int, default=None, help="only the first so many")
    add("--conditions", nargs="*", choices=CONDITIONS, default=None, help="default: all but oracles, full")
    add("--also", nargs="*", choices=ON_DEMAND, default=[], help="oracle, oracle_bound and full, beside the others")
    add("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.twin and len(args.twin) != len(args.runs):
        raise SystemExit("give one twin for each run, in their order")
    reports = [evaluate(args, run, args.twin[i] if args.twin else None) for i, run in enumerate(args.runs)]
    documents = reports[0].documents
    print(file=sys.stderr)
    print(f"{len(documents)} rows of {len(np.unique(documents))} documents, histories of {args.history} tokens")
    for run, report in zip(args.runs, reports, strict=True):
        print(
            f"{run}: Working Contexts of {report.entries:.1f} entries before the first prediction: {report.far_tokens:.1f} "
            f"tokens from far behind, a tail of {report.tail:.1f}, the rest gists"
        )
        print("   " + "  ".join(f"{name} {values.mean():.4f}" for name, values in report.nll.items()))
    for one, other in PAIRS:
        if any(one not in report.nll or other not in report.nll for report in reports):
            continue
        each = [report.nll[one] - report.nll[other] for report in reports]
        mean = np.mean(each, axis=0)
        rows, by_document = estimate(mean), estimate(mean, documents)
        of_documents = estimate(np.array([mean[documents == document].mean() for document in np.unique(documents)]))
        print(
            f"{one + ' - ' + other:28s} {mean.mean():+.4f} +- {stderr_of(rows)} by row, {stderr_of(by_document)} by document; "
            f"mean of documents {of_documents.mean:+.4f} +- {stderr_of(of_documents)}; "
            f"runs {' '.join(f'{values.mean():+.4f}' for values in each)}"
        )
    print_shares(reports)
    if args.out is not None:
        arrays = {f"{i}/{name}": values for i, report in enumerate(reports) for name, values in report.losses.items()}
        np.savez(args.out, **{"documents": documents, **arrays})  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        main()
    except MccoreError as error:
        raise SystemExit(error.render()) from None
