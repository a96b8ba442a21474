"""Like greedy, but each choice is drawn among the best few: exploration for training and for breaking ruts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mccore.api import Allocator, AllocatorSpec, Budget, Edits, Extension, FocusView
from mccore.hookspecs import hookimpl
from mccore_allocators.entries import Positions
from mccore_allocators.replacement import ReplacementAllocator, ReplacementOptions, best_first


class StochasticGreedyOptions(ReplacementOptions):
    """Options of the stochastic greedy allocator."""

    sample_top_k: int = Field(
        4, ge=1, le=1024, description="best candidates that each choice is drawn among; 1 is greedy"
    )
    sample_temperature: float = Field(
        1.0, gt=0, le=100, description="each choice is drawn by softmax(|score| / this); towards 0 it is greedy"
    )


class StochasticGreedyAllocator(ReplacementAllocator):
    """Draws one candidate after another among the `sample_top_k` best that are left in its row.

    The n-th plan draws from a generator made of the seed and n, so it doesn't matter what earlier plans were about.
    """

    def __init__(self, options: StochasticGreedyOptions, spec: AllocatorSpec) -> None:
        super().__init__(options, spec)
        self._top_k = options.sample_top_k
        self._temperature = options.sample_temperature
        self._seed = spec.seed
        self._plans = 0
        self._generator = np.random.default_rng([spec.seed, 0])

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        """Edits for every row; the draws depend on the seed and on how many plans came before."""
        self._generator = np.random.default_rng([self._seed, self._plans])
        self._plans += 1
        return super().plan(view, budget)

    def _choose(self, row: Positions, utility: NDArray[np.float64], wanted: NDArray[np.int64]) -> Positions:
        order = best_first(row, utility)
        # Utility is |score| for what may pay or be paid for; it is signed only where a row has to shrink at any price.
        logits = np.append(utility[order] / self._temperature, -np.inf)
        rows = np.arange(len(wanted))
        first, stop = np.searchsorted(row, rows), np.searchsorted(row, rows, side="right")
        wanted = np.minimum(wanted, stop - first)
        turns = int(wanted.max(initial=0))
        window = first[:, None] + np.arange(self._top_k)  # [B, top_k] places in `order` among which a row draws next
        refill = first + self._top_k
        drawn = np.empty((len(rows), turns), dtype=np.intp)
        for turn in range(turns):
            # The largest of logits with Gumbel noise is a draw from their softmax.
            noise = self._generator.gumbel(size=window.shape)
            slot = np.argmax(logits[np.where(window < stop[:, None], window, -1)] + noise, axis=1)
            drawn[:, turn] = window[rows, slot]
            window[rows, slot] = refill
            refill += 1
        return order[drawn[np.arange(turns) < wanted[:, None]]]


@hookimpl
def mccore_allocator() -> Extension[Allocator]:
    return Extension(
        build=StochasticGreedyAllocator,
        options=StochasticGreedyOptions,
        summary="greedy, each choice drawn among the best few",
        reads=("scores",),
    )
