"""One refocus of many sessions: score, plan, check, apply. Functions without state; a session's focus is a small value.

LensNet scores the entries of each Working Context, the allocator plans edits, and `cut.apply` takes them whole or refuses
them: whatever a LensNet says and an allocator plans, cuts stay tilings of their history within the budget, with the recent
tokens at LOD0.

What a refocus is measured by (design/operations.md, section 1) counts in *blocks* of K tokens: complete ones before the
recent tokens are editable. An edit is one expansion or one collapse; it is undone by the opposite edit of the same node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.api import Allocator, Budget, Found
from mccore.errors import MccoreError
from mccore.megacontext.cut import Cut, append, coarsest, finest, recency_pyramid
from mccore.megacontext.focus_view import apply_batch, carry_ages, pack
from mccore.megacontext.lensnet import LensNet, squash
from mccore.megacontext.positions import spans_of

MEMORY = 3  # refocuses within which an edit counts as undone
_UNCHOSEN = 1 << 20  # age of entries that nobody chose: no allocator's residency protects them

Nodes = NDArray[np.int64]  # [E, 2], (level, index)
Read = Callable[[Sequence[Cut]], Sequence[Tensor]]  # the embeddings [L, D] of cuts, as `Tree.entries` gives them


class FocusError(MccoreError):
    """Scores that no allocator can use, or a history that doesn't fit the Working Context."""


@dataclass(frozen=True)
class Limits:
    """What bounds the Working Contexts of a model: `budget` entries (W), of which a refocus leaves `room` free for the
    tokens that come before the next one."""

    budget: int
    block_size: int
    max_lod: int
    room: int = 0

    @property
    def entries(self) -> int:
        """Entries that a refocus may leave."""
        return self.budget - self.room


@dataclass(frozen=True)
class Focus:
    """The focus of one session: its cut, the refocuses that each entry has kept its level, and the edits of the last
    `MEMORY` refocuses, oldest first, as (expanded nodes, collapsed parents)."""

    cut: Cut
    age: NDArray[np.int32]  # [L]
    recent: tuple[tuple[Nodes, Nodes], ...] = ()


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

    focuses: list[Focus]
    edits: list[tuple[Nodes, Nodes]]
    measures: list[Measures]
    duration: float = 0.0


# --- states -----------------------------------------------------------------------------------------------------------


def start_focus(tokens: int, limits: Limits, recent_tokens: int, *, coarse: bool = False) -> Focus:
    """The focus of a history nobody has looked at: all of it where it fits, else detail that only grows with time, or with
    `coarse` the shortest cut. Raises FocusError when even that is longer than a refocus may leave.
    """
    shape = (tokens, limits.block_size, limits.max_lod, recent_tokens)
    check_fits(tokens, limits, recent_tokens)
    if tokens <= limits.entries:
        cut = finest(tokens, limits.block_size)
    else:
        cut = coarsest(*shape) if coarse else recency_pyramid(*shape, limits.entries)
    return Focus(cut, np.zeros(len(cut), dtype=np.int32))


def append_tokens(focus: Focus, tokens: int, limits: Limits) -> Focus:
    """The focus with `tokens` new tokens behind it. Raises FocusError when they don't fit: a refocus is due."""
    if len(focus.cut) + tokens > limits.budget:
        raise FocusError(
            f"{tokens} more tokens don't fit a Working Context that has {len(focus.cut)} of {limits.budget} entries",
            hint="refocus first, with room for them",
        )
    return replace(
        focus, cut=append(focus.cut, tokens), age=np.concatenate([focus.age, np.zeros(tokens, dtype=np.int32)])
    )


def check_fits(tokens: int, limits: Limits, recent_tokens: int) -> None:
    """Raise FocusError when no legal cut of `tokens` tokens has as few entries as a refocus has to leave."""
    shortest = len(coarsest(tokens, limits.block_size, limits.max_lod, recent_tokens))
    if shortest > limits.entries:
        room = f", {limits.room} of them kept free for new tokens" if limits.room else ""
        raise FocusError(
            f"a history of {tokens} tokens takes at least {shortest} entries with {recent_tokens} recent tokens and "
            f"gists up to LOD{limits.max_lod}, and the Working Context has {limits.budget}{room}",
            hint="raise megacontext.wc_length, or megacontext.max_lod, or lower the allocator's recent_tokens",
        )


# --- a refocus --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def score_cuts(
    lensnet: LensNet, embeddings: Sequence[Tensor], cuts: Sequence[Cut], recent_tokens: int, dtype: torch.dtype
) -> list[NDArray[np.float32]]:
    """LensNet's scores in (-1, 1) of the entries of each cut, [L], from their embeddings [L, D]; `dtype` is LensNet's.

    Only entries before the recent tokens compete. Cuts of one length are scored in one pass.
    """
    scores: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32) for _ in cuts]
    lengths = np.array([len(cut) for cut in cuts], dtype=np.int64)
    for length in np.unique(lengths[lengths > 0]).tolist():
        at = np.flatnonzero(lengths == length).tolist()
        device = embeddings[at[0]].device
        level = torch.from_numpy(np.stack([cuts[i].level for i in at]).astype(np.int64)).to(device)
        index = torch.from_numpy(np.stack([cuts[i].index for i in at])).to(device)
        size = cuts[at[0]].block_size
        limit = [(cuts[i].tokens - recent_tokens) // size * size for i in at]
        spans = spans_of(level, index, size)
        editable = (index + 1) * spans.span <= torch.tensor(limit, device=device).unsqueeze(1)
        found = lensnet(torch.stack([embeddings[i] for i in at]).to(dtype), spans, editable)
        squashed = squash(found.scores, found.there.sum(dim=1)).float().cpu().numpy()
        for row, i in enumerate(at):
            scores[i] = squashed[row]
    return scores


def scores_for(
    allocator: Allocator, lensnet: LensNet, read: Read, cuts: Sequence[Cut], dtype: torch.dtype
) -> list[NDArray[np.float32]]:
    """`score_cuts` for an allocator that reads scores, zeros for others."""
    if not getattr(allocator, "reads_scores", True):
        return [np.zeros(len(cut), dtype=np.float32) for cut in cuts]
    return score_cuts(lensnet, read(cuts), cuts, allocator.recent_tokens, dtype)


def refocus(
    focuses: Sequence[Focus],
    embeddings: Sequence[Tensor],
    lensnet: LensNet,
    allocator: Allocator,
    limits: Limits,
    dtype: torch.dtype = torch.float32,
    found: Found | None = None,
) -> Refocus:
    """Score, plan, check and apply, timed until the device is done. `embeddings` [L, D] belong to the cuts of `focuses`; `found`
    is what a search of their histories found.

    Raises FocusError for scores that aren't numbers or a history that can't fit, IllegalEdit for what an allocator may not
    do; then nothing has changed.
    """
    device = embeddings[0].device if embeddings else torch.device("cpu")
    _wait_for(device)
    began = time.perf_counter()
    scores = scores_for(allocator, lensnet, lambda _: embeddings, [focus.cut for focus in focuses], dtype)
    after, edits = plan_and_apply(focuses, scores, allocator, limits, found)
    _wait_for(device)
    duration = time.perf_counter() - began
    return _measured(focuses, after, edits, allocator.recent_tokens, limits, duration)


def refocus_by(
    focuses: Sequence[Focus], scores: Sequence[NDArray[Any]], allocator: Allocator, limits: Limits
) -> Refocus:
    """`refocus` by given scores in [-1, 1], one array [L] per session."""
    began = time.perf_counter()
    after, edits = plan_and_apply(focuses, scores, allocator, limits)
    duration = time.perf_counter() - began
    return _measured(focuses, after, edits, allocator.recent_tokens, limits, duration)


def plan_and_apply(
    focuses: Sequence[Focus],
    scores: Sequence[NDArray[Any]],
    allocator: Allocator,
    limits: Limits,
    found: Found | None = None,
) -> tuple[list[Focus], list[tuple[Nodes, Nodes]]]:
    """The focuses after what the allocator plans for these scores, and the edits of each: all of them, or an error."""
    cuts = [focus.cut for focus in focuses]
    for cut in cuts:
        check_fits(cut.tokens, limits, allocator.recent_tokens)
    _check_scores(scores, cuts)
    view = pack(cuts, scores, [focus.age for focus in focuses], found=found)
    planned = allocator.plan(view, Budget(limits.entries))
    after = apply_batch(
        cuts, planned, budget=limits.entries, recent_tokens=allocator.recent_tokens, max_lod=limits.max_lod
    )
    edits = [(_of_row(planned.expand, row), _of_row(planned.collapse, row)) for row in range(len(cuts))]
    return [
        Focus(cut, carry_ages(focus.cut, cut, focus.age), (*focus.recent, made)[-MEMORY:])
        for focus, cut, made in zip(focuses, after, edits, strict=True)
    ], edits


def prefill_focus(
    tokens: Sequence[int],
    read: Read,
    lensnet: LensNet,
    allocator: Allocator,
    limits: Limits,
    *,
    dtype: torch.dtype = torch.float32,
    rounds: int = 8,
    coarse: bool = False,
    found: Found | None = None,
) -> list[Focus]:
    """Focuses for histories of so many tokens: `start_focus`, then refined by up to `rounds` refocuses, until none edits.

    What was there before LensNet looked may be changed at once, whatever residency the allocator asks for; what a round
    chose stays. Ages count from the end.
    """
    focuses = [start_focus(each, limits, allocator.recent_tokens, coarse=coarse) for each in tokens]
    focuses = [replace(focus, age=np.full(len(focus.cut), _UNCHOSEN, dtype=np.int32)) for focus in focuses]
    for _ in range(rounds):
        cuts = [focus.cut for focus in focuses]
        scores = scores_for(allocator, lensnet, read, cuts, dtype)
        focuses, edits = plan_and_apply(focuses, scores, allocator, limits, found)
        if not any(len(nodes) for made in edits for nodes in made):
            break
    return [Focus(focus.cut, np.zeros(len(focus.cut), dtype=np.int32)) for focus in focuses]


def _check_scores(scores: Sequence[NDArray[Any]], cuts: Sequence[Cut]) -> None:
    for row, (score, cut) in enumerate(zip(scores, cuts, strict=True)):
        if np.shape(score) != (len(cut),):
            raise FocusError(f"row {row} has {len(cut)} entries and scores {list(np.shape(score))}")
        wrong = ~(np.abs(score) <= 1)  # NaN compares false
        if wrong.any():
            at = int(np.argmax(wrong))
            raise FocusError(
                f"the score of entry {at} of row {row}, ({cut.level[at]}, {cut.index[at]}), is {score[at]}: scores lie in "
                "[-1, 1]",
                hint="a NaN comes from broken weights or gists: load another checkpoint",
            )


def _of_row(edits: NDArray[Any], row: int) -> Nodes:
    table = np.asarray(edits, dtype=np.int64).reshape(-1, 3)
    return table[table[:, 0] == row, 1:]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- measures ---------------------------------------------------------------------------------------------------------


def _measured(
    before: Sequence[Focus],
    after: list[Focus],
    edits: list[tuple[Nodes, Nodes]],
    recent_tokens: int,
    limits: Limits,
    duration: float,
) -> Refocus:
    measures = [
        measure(old, new, made, recent_tokens, limits) for old, new, made in zip(before, after, edits, strict=True)
    ]
    return Refocus(after, edits, measures, duration)


def measure(before: Focus, after: Focus, edits: tuple[Nodes, Nodes], recent_tokens: int, limits: Limits) -> Measures:
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
    """The metrics of a session's or a batch's refocuses, by their names in `mccore.metrics.METRICS`: means over all
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
