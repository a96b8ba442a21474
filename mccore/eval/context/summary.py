"""Comparisons of one or several models on the same rows, as numbers with standard errors.

Losses of several models, seeds of one configuration say, are averaged row by row first, so that standard errors are those of the
rows; every model's own mean stands beside. Standard errors go by document where those are known: rows of one aren't independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mccore.errors import DataError
from mccore.eval.context.catalogue import Condition, pairs
from mccore.eval.context.statistics import Comparison, MeanEstimate, estimate


def mean_of(reports: Sequence[Comparison]) -> Comparison:
    """The comparison of losses averaged over all models, of the conditions that all of them have; scores and utilities are the
    first model's. Raises DataError for models that read other documents, or other numbers of rows."""
    first = reports[0]
    for report in reports[1:]:
        same = np.array_equal(np.asarray(report.documents), np.asarray(first.documents))
        if not same or any(
            report.losses[name].shape != first.losses[name].shape for name in report.losses.keys() & first.losses
        ):
            raise DataError(
                "the runs differ in tokenizer, data or sizes: their rows can't be averaged",
                hint="compare runs of one recipe and corpus, or evaluate them one by one",
            )
    losses = {
        name: np.mean([report.losses[name] for report in reports], axis=0)
        for name in first.losses
        if all(name in report.losses for report in reports)
    }
    return Comparison(losses, first.documents, first.scores, first.utilities)


def summarize_comparison(
    reports: Sequence[Comparison], conditions: Sequence[Condition], ks: Sequence[int]
) -> dict[str, Any]:
    """What a comparison comes to, as JSON holds it: `nll`, `differences` (each with every model's own), `gap_closed`, and how
    well each choice ranks what it could show (`ranking`, means over models). An estimate is {mean, stderr, n}, or null."""
    mean = mean_of(reports)
    compared = pairs(conditions, mean.nll)
    compared += [(name, "window") for name in mean.nll if name != "window" and (name, "window") not in compared]
    return {
        "rows": len(next(iter(mean.nll.values()))),
        "documents": None if mean.documents is None else len(np.unique(mean.documents)),
        "nll": {name: _as_dict(estimate(values, mean.documents)) for name, values in mean.nll.items()},
        "differences": {
            f"{one} - {other}": {
                **asdict(mean.difference(one, other)),
                "runs": [float((report.nll[one] - report.nll[other]).mean()) for report in reports],
            }
            for one, other in compared
        },
        "gap_closed": {name: _as_dict(mean.gap_closed(name)) for name in mean.nll if name not in ("full", "window")},
        "ranking": {
            name: _ranking(reports, name, ks) for name in reports[0].scores if reports[0].utilities is not None
        },
    }


def _ranking(reports: Sequence[Comparison], name: str, ks: Sequence[int]) -> dict[str, float | None]:
    """Rank correlation and recall of a choice, and the share that it closes of the gap from random to oracle."""
    # The scores of a session's own search are shown by its own Working Context.
    condition = "context" if "context" in reports[0].nll and name == "ngram" else name
    columns: dict[str, list[MeanEstimate | None]] = {
        "spearman": [report.rank_correlation(name) for report in reports],
        **{f"recall@{k}": [report.recall(name, k) for report in reports] for k in ks},
        "focus_gap_closed": [report.focus_gap_closed(condition) for report in reports],
    }
    means = {
        key: [cell.mean for cell in cells if cell is not None and cell.mean is not None]
        for key, cells in columns.items()
    }
    return {key: float(np.mean(values)) if values else None for key, values in means.items()}


def _as_dict(value: MeanEstimate | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
