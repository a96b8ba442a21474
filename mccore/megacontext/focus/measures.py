"""What a refocus is measured by.

It counts in *blocks* of K tokens: complete ones before the recent tokens are editable. An edit is one expansion or one
collapse; it is undone by the opposite edit of the same node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.megacontext.focus.state import FocusState, Limits, Nodes
from mccore.megacontext.tree.cut import Cut


@dataclass(frozen=True)
class Measures:
    """What one refocus did to one session."""

    swap_rate: float  # blocks whose LOD changed / editable blocks; 0 without any
    residency: float  # entries in use when it began / W
    dwell: float  # mean refocuses that an editable block has kept its LOD, after it
    dwell_p95: float
    raw_share: float  # tokens at LOD0 / tokens, after it
    reprefill_entries: int  # entries from the first one that it changed on
    edits: int
    undone: int  # edits of the last `MEMORY` refocuses that it took back
    editable: int  # blocks that could be edited


@dataclass(frozen=True)
class Refocus:
    """A refocus of several sessions: the new focus, edits and measures of each, and the seconds all took together."""

    focuses: list[FocusState]
    edits: list[tuple[Nodes, Nodes]]
    measures: list[Measures]
    duration: float = 0.0


# --- measures ---------------------------------------------------------------------------------------------------------


def measure_all(
    before: Sequence[FocusState],
    after: list[FocusState],
    edits: list[tuple[Nodes, Nodes]],
    recent_tokens: int,
    limits: Limits,
    duration: float,
) -> Refocus:
    measures = [
        measure(old, new, made, recent_tokens, limits) for old, new, made in zip(before, after, edits, strict=True)
    ]
    return Refocus(after, edits, measures, duration)


def measure(
    before: FocusState, after: FocusState, edits: tuple[Nodes, Nodes], recent_tokens: int, limits: Limits
) -> Measures:
    """What a refocus by these edits did."""
    cut, size = after.cut, limits.block_size
    editable = max(0, cut.tokens - recent_tokens) // size
    same = _present(before.cut, cut)  # [entries before]
    changed = int(before.cut.span[~same].sum()) // size  # edits move whole blocks
    first = int(np.argmin(same)) if not same.all() else len(cut)  # up to there both cuts are one
    ages, weights = block_ages(cut, after.age, editable)
    mean, p95 = _mean_and_p95(ages, weights)
    return Measures(
        swap_rate=changed / editable if editable else 0.0,
        residency=len(before.cut) / limits.budget,
        dwell=mean,
        dwell_p95=p95,
        raw_share=int((cut.level == 0).sum()) / cut.tokens if cut.tokens else 1.0,
        reprefill_entries=len(cut) - first,
        edits=sum(len(nodes) for nodes in edits),
        undone=_undone(before.recent, edits),
        editable=editable,
    )


def block_ages(cut: Cut, age: NDArray[Any], editable: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The refocuses that the first `editable` blocks have kept their LOD, as (ages, how many blocks have each).

    A block of tokens is as old as its youngest token.
    """
    size = cut.block_size
    raw = (cut.level == 0) & (cut.index < editable * size)
    coarse = cut.level > 0
    tokens = np.asarray(age)[raw].reshape(-1, size).min(axis=1)
    return (
        np.concatenate([tokens, np.asarray(age)[coarse]]),
        np.concatenate([np.ones(len(tokens), dtype=np.int64), cut.span[coarse] // size]),
    )


def _mean_and_p95(values: NDArray[Any], weights: NDArray[Any]) -> tuple[float, float]:
    """Mean and 95th percentile (the least value that 95 % don't exceed) of weighted values; 0 of none."""
    if not len(values):
        return 0.0, 0.0
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    at = int(np.searchsorted(share, 0.95 * share[-1]))
    return float(np.average(values, weights=weights)), float(values[order][at])


def _present(cut: Cut, other: Cut) -> NDArray[np.bool_]:
    """Which entries of a cut are entries of another one of the same history."""
    if not len(cut):
        return np.zeros(0, dtype=bool)
    at = np.minimum(np.searchsorted(other.start, cut.start), len(other) - 1)
    found: NDArray[np.bool_] = (other.level[at] == cut.level) & (other.index[at] == cut.index)
    return found


def _undone(recent: Sequence[tuple[Nodes, Nodes]], edits: tuple[Nodes, Nodes]) -> int:
    """How many edits of recent refocuses these edits take back."""
    expanded = {tuple(node) for before, _ in recent for node in before.tolist()}
    collapsed = {tuple(node) for _, before in recent for node in before.tolist()}
    expand, collapse = ({tuple(node) for node in nodes.tolist()} for nodes in edits)
    return len(expand & collapsed) + len(collapse & expanded)


def summarize(refocuses: Sequence[Refocus]) -> dict[str, float]:
    """The metrics of a session's or a batch's refocuses, by their names in `mccore.events.METRICS`: means over all
    refocuses of all rows; `thrash` is undone edits over edits, 0 without any; `controller_duration` is that of a call."""
    measures = [each for done in refocuses for each in done.measures]
    if not measures:
        return {}
    edits = sum(each.edits for each in measures)

    def mean(name: str) -> float:
        return float(np.mean([getattr(each, name) for each in measures]))

    return {
        "swap_rate": mean("swap_rate"),
        "residency": mean("residency"),
        "dwell": mean("dwell"),
        "dwell/p95": mean("dwell_p95"),
        "thrash": sum(each.undone for each in measures) / edits if edits else 0.0,
        "raw_share": mean("raw_share"),
        "controller_duration": float(np.mean([done.duration for done in refocuses])),
        "reprefill_entries": mean("reprefill_entries"),
    }
