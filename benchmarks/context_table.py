"""What Working Contexts of trained runs are worth, on more rows than a run's own report takes, averaged over seeds.

    python benchmarks/context_table.py RUN [RUN ...] [--rows 400]

RUN is the name of a run with --mc whose base stage has ended. All runs read the same validation rows; differences are paired by
row, averaged over the runs first, and their standard errors go by document.
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import numpy as np

from mccore.errors import MccoreError
from mccore.eval.context.geometry import POLICIES
from mccore.eval.context.statistics import Estimate, estimate
from mccore.eval.context.within_sequence import COMPARED, ContextReport
from mccore.runs.rundir import RunDir
from mccore.runtime.runtime import Runtime
from mccore.stages.focus import compare_contexts
from mccore.train.world import World

PAIRS = (*COMPARED, ("gists", "window"), ("full", "window"), ("lens", "window"), ("oracle", "window"))


def report_of(name: str, rows: int) -> ContextReport:
    run = RunDir.open(name)
    runtime = Runtime(run.config, run, "base", World(), cast(Any, None), lambda: False)
    gpt, _ = runtime.trained_gpt("base")
    nets = runtime.trained_megacontext("base")
    if nets is None:
        raise SystemExit(f"the run {name!r} was trained without MegaContext: train one, `mccore run tiny --mc`")
    return compare_contexts(runtime, gpt, nets, rows)


def shown(found: Estimate | None) -> str:
    if found is None or found.mean is None:
        return "-"
    return f"{found.mean:+.4f} +- " + ("?" if found.stderr is None else f"{found.stderr:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--rows", type=int, default=400)
    args = parser.parse_args()
    reports = [report_of(name, args.rows) for name in args.runs]
    first = reports[0]
    geometry = first.geometry
    for name, report in zip(args.runs, reports, strict=True):
        same = np.array_equal(report.distance, first.distance) and np.array_equal(report.documents, first.documents)
        if report.geometry != geometry or not same:
            raise SystemExit(
                f"{name} and {args.runs[0]} differ in tokenizer, data or sizes: their rows can't be averaged"
            )
    print(
        f"{first.rows} rows of {geometry.tokens} tokens in {geometry.entries} entries, the last {geometry.horizon} scored"
    )
    for one, other in PAIRS:
        if any(one not in report.nll or other not in report.nll for report in reports):
            continue
        each = [report.nll[one] - report.nll[other] for report in reports]
        seeds = " ".join(f"{values.mean():+.4f}" for values in each)
        print(f"{one + ' - ' + other:32s} {shown(estimate(np.mean(each, axis=0), first.documents))}   runs {seeds}")
    print("policy: Spearman with utility, recall@1, recall@8, share of the gap from random to oracle; means over runs")
    for policy in POLICIES:
        found = [
            [
                report.rank_correlation(policy),
                report.recall(policy, 1),
                report.recall(policy, 8),
                report.focus_gap_closed(policy),
            ]
            for report in reports
            if policy in report.scores
        ]
        columns = [
            [cell.mean for cell in column if cell is not None and cell.mean is not None]
            for column in zip(*found, strict=True)
        ]
        if columns:
            print(f"   {policy:18s} " + "  ".join(f"{np.mean(cells):.3f}" if cells else "-" for cells in columns))


if __name__ == "__main__":
    try:
        main()
    except MccoreError as error:
        raise SystemExit(error.render()) from None
