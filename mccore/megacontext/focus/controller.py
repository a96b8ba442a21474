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
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.api import Allocator, Budget, Found
from mccore.megacontext.focus.abilities import reads
from mccore.megacontext.focus.measures import Refocus, measure_all
from mccore.megacontext.focus.state import (
    MEMORY,
    UNCHOSEN_AGE,
    FocusError,
    FocusState,
    Limits,
    Nodes,
    check_fits,
)
from mccore.megacontext.focus.view import apply_batch, carry_ages, pack
from mccore.megacontext.networks.lensnet import LensNet, squash
from mccore.megacontext.networks.positions import spans_of
from mccore.megacontext.tree.cut import Cut

Read = Callable[[Sequence[Cut]], Sequence[Tensor]]  # the embeddings [L, D] of cuts, as `Tree.entries` gives them
Score = Callable[[Sequence[Cut]], Sequence[NDArray[Any]]]  # scores [L] in [-1, 1] of cuts


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
        output = lensnet(torch.stack([embeddings[i] for i in at]).to(dtype), spans, editable)
        squashed = squash(output.scores, output.mask.sum(dim=1)).float().cpu().numpy()
        for row, i in enumerate(at):
            scores[i] = squashed[row]
    return scores


def scores_for(
    allocator: Allocator, lensnet: LensNet, read: Read, cuts: Sequence[Cut], dtype: torch.dtype
) -> list[NDArray[np.float32]]:
    """`score_cuts` for an allocator that reads scores, zeros for others."""
    if not reads(allocator, "scores"):
        return [np.zeros(len(cut), dtype=np.float32) for cut in cuts]
    return score_cuts(lensnet, read(cuts), cuts, allocator.recent_tokens, dtype)


def refocus(
    focuses: Sequence[FocusState], score: Score, allocator: Allocator, limits: Limits, found: Found | None = None
) -> Refocus:
    """Score, plan, check, apply and measure, timed until the device is done. `score` gives the scores of the cuts of `focuses`,
    `lens_score` those of LensNet; `found` is what a search of their histories found.

    Raises FocusError for scores that aren't numbers or a history that can't fit, IllegalEdit for what an allocator may not
    do; then nothing has changed.
    """
    _wait_for_device()
    began = time.perf_counter()
    after, edits = plan_and_apply(focuses, score([focus.cut for focus in focuses]), allocator, limits, found)
    _wait_for_device()
    duration = time.perf_counter() - began
    return measure_all(focuses, after, edits, allocator.recent_tokens, limits, duration)


def lens_score(lensnet: LensNet, read: Read, allocator: Allocator, dtype: torch.dtype = torch.float32) -> Score:
    """What scores cuts by LensNet, for `refocus`; `read` gives the embeddings of cuts."""
    return lambda cuts: scores_for(allocator, lensnet, read, cuts, dtype)


def plan_and_apply(
    focuses: Sequence[FocusState],
    scores: Sequence[NDArray[Any]],
    allocator: Allocator,
    limits: Limits,
    found: Found | None = None,
) -> tuple[list[FocusState], list[tuple[Nodes, Nodes]]]:
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
        FocusState(cut, carry_ages(focus.cut, cut, focus.age), (*focus.recent, made)[-MEMORY:])
        for focus, cut, made in zip(focuses, after, edits, strict=True)
    ], edits


def prefill_focus(
    focuses: Sequence[FocusState],
    score: Score,
    allocator: Allocator,
    limits: Limits,
    *,
    rounds: int = 8,
    found: Found | None = None,
) -> list[FocusState]:
    """First focuses of histories (`start_focus`), refined by up to `rounds` refocuses, until none edits.

    What was there before a score looked may be changed at once, whatever residency the allocator asks for; what a round
    chose stays. Ages count from the end.
    """
    focuses = [replace(focus, age=np.full(len(focus.cut), UNCHOSEN_AGE, dtype=np.int32)) for focus in focuses]
    for _ in range(rounds):
        cuts = [focus.cut for focus in focuses]
        focuses, edits = plan_and_apply(focuses, score(cuts), allocator, limits, found)
        if not any(len(nodes) for made in edits for nodes in made):
            break
    return [FocusState(focus.cut, np.zeros(len(focus.cut), dtype=np.int32)) for focus in focuses]


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


def _wait_for_device() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
