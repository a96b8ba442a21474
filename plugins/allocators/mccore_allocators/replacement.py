"""What the greedy allocators share: bring a row within its limit, then trade detail for detail.

An expansion adds K - 1 entries and a collapse frees K - 1, at every level, so utility per added entry ranks like the score
itself, and one collapse pays for one expansion. A plan has two parts:

1. Rows over their limit collapse their least useful blocks until they fit, whatever the scores: a block's score is the mean
   of its K siblings. Parents made on the way can be collapsed further.
2. `iterations` rounds of up to `max_replacements` replacements. A replacement is an expansion of an entry that asks for
   detail, free while there is room, else paid by a collapse of a block that can shrink, if the expansion's score beats the
   block's by `hysteresis`. Nothing shrinks without need.

An entry that has kept its level for less than `min_residency` refocuses isn't replaced, and only collapsed by part 1 where
no older block is left. A child that this plan made has no score of its own yet and waits for the next refocus.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mccore.api import AllocatorOptions, AllocatorSpec, Budget, Edits, FocusView
from mccore_allocators.entries import Blocks, Entries, Positions, complete_blocks

_YOUNG = 2.0  # scores are within (-1, 1): this ranks every young block behind every older one


class ReplacementOptions(AllocatorOptions):
    """Options of the greedy allocators."""

    soft_max_length: int = Field(0, ge=0, description="entries aimed at within the budget; 0 takes the whole budget")
    # A score of 0 is the mean share of attention, m times that is (m - 1) / (m + 1). A LensNet that is sure of itself goes to
    # the ends; a small one stays within 0.2, and with wider margins nothing ever moves (docs/LOG.md).
    expand_threshold: float = Field(0.0, ge=-1, le=1, description="least score of an entry that is expanded")
    collapse_threshold: float = Field(
        -0.25, ge=-1, le=1, description="a block pays for an expansion when its mean score is at most minus this"
    )
    max_replacements: int = Field(4, ge=0, description="expansions per row and iteration, each with what pays for it")
    iterations: int = Field(2, ge=1, le=16, description="rounds of replacements in one refocus")
    hysteresis: float = Field(
        0.05,
        ge=0,
        le=2,
        description="margin by which an expansion's score must beat that of the block that pays for it",
    )
    min_residency: int = Field(3, ge=0, description="refocuses an entry keeps its level before it is replaced")


class ReplacementAllocator(ABC):
    """Plans replacements; a subclass says which of the candidates are taken."""

    def __init__(self, options: ReplacementOptions, spec: AllocatorSpec) -> None:
        self.recent_tokens = options.recent_tokens
        self._options = options
        self._spec = spec

    @abstractmethod
    def _choose(self, row: Positions, utility: NDArray[np.float64], wanted: NDArray[np.int64]) -> Positions:
        """Candidates to take, as positions ordered by row and then by preference, at most `wanted[row]` of each row.

        Candidates come ordered by row, and the earlier of two alike is preferred.
        """

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        """Edits for every row, by the rules at the top of this module."""
        options, step = self._options, self._spec.block_size - 1
        limit = min(options.soft_max_length or budget.entries, budget.entries)
        entries = Entries.of(view)
        expansions, collapses = [np.empty((0, 3), dtype=np.int64)], [np.empty((0, 3), dtype=np.int64)]
        rows = len(view.tokens)
        while (excess := np.maximum(entries.lengths(rows) - limit, 0)).any():
            blocks = self._blocks(entries, view)
            young = blocks.age < options.min_residency
            blocks = blocks.at(self._choose(blocks.row, -blocks.score - _YOUNG * young, -(-excess // step)))
            if not len(blocks.row):
                break
            collapses.append(blocks.nodes())
            entries = entries.edited(np.empty(0, dtype=np.intp), blocks, self._spec.block_size)
        for turn in range(options.iterations):
            expand, blocks = self._replacements(entries, view, np.maximum(limit - entries.lengths(rows), 0) // step)
            if not len(expand):
                break
            expansions.append(entries.nodes(expand))
            collapses.append(blocks.nodes())
            if turn + 1 < options.iterations:
                entries = entries.edited(expand, blocks, self._spec.block_size)
        return Edits(expand=np.concatenate(expansions), collapse=np.concatenate(collapses))

    def _replacements(self, entries: Entries, view: FocusView, free: NDArray[np.int64]) -> tuple[Positions, Blocks]:
        """One round: entries to expand, and the blocks that pay for those beyond the `free` expansions of each row [B]."""
        options, rows = self._options, len(view.tokens)
        # Newest first: of two alike, the newer is expanded and the older shrinks.
        asking = np.flatnonzero(
            (entries.level > 0)
            & (entries.score >= options.expand_threshold)
            & (entries.age >= options.min_residency)
            & ~entries.expanded
            & ~entries.collapsed
        )[::-1]
        asking = asking[np.argsort(entries.row[asking], kind="stable")]
        wanted = np.full(rows, options.max_replacements, dtype=np.int64)
        expand = asking[self._choose(entries.row[asking], entries.score[asking], wanted)]
        row = entries.row[expand]
        rank = rank_in_row(row)
        paid = rank >= free[row]
        if paid.any():
            blocks = self._blocks(entries, view)
            taken = np.zeros(len(entries.row), dtype=bool)
            taken[expand] = True
            blocks = blocks.at(
                (blocks.score <= -options.collapse_threshold)
                & (blocks.age >= options.min_residency)
                & ~taken[blocks.members].any(axis=1)
            )
            wanted = np.bincount(row[paid], minlength=rows)
            blocks = blocks.at(self._choose(blocks.row, -blocks.score, wanted))
        else:
            blocks = _no_blocks(self._spec.block_size)
        # The j-th expansion of a row that isn't free is paid by the row's j-th block, where there is one and it loses.
        first = np.searchsorted(blocks.row, np.arange(rows))
        payers = np.bincount(blocks.row, minlength=rows)
        turn = rank - free[row]
        payable = np.flatnonzero(paid & (turn < payers[row]))
        payer = first[row[payable]] + turn[payable]
        wins = entries.score[expand[payable]] - blocks.score[payer] >= options.hysteresis
        return np.concatenate([expand[~paid], expand[payable[wins]]]), blocks.at(payer[wins])

    def _blocks(self, entries: Entries, view: FocusView) -> Blocks:
        return complete_blocks(entries, view.tokens, self._spec.block_size, self._spec.max_lod, self.recent_tokens)


def rank_in_row(row: Positions) -> Positions:
    """Place of each candidate within its row, for candidates ordered by row."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def best_first(row: Positions, utility: NDArray[np.float64]) -> Positions:
    """Candidates ordered by row, then by descending utility; those alike stay in their order."""
    return np.lexsort((-utility, row))


def _no_blocks(block_size: int) -> Blocks:
    none = np.empty(0, dtype=np.int64)
    return Blocks(none.reshape(0, block_size), none, none, none, none.astype(np.float64), none)
