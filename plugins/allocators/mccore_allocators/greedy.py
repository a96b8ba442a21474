"""Expand what asks loudest for detail, pay with the least useful blocks; the same view always gives the same plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mccore.api import Allocator, Extension
from mccore.hookspecs import hookimpl
from mccore_allocators.entries import Positions
from mccore_allocators.replacement import ReplacementAllocator, ReplacementOptions, best_first, rank_in_row


class GreedyOptions(ReplacementOptions):
    """Options of the greedy allocator."""


class GreedyAllocator(ReplacementAllocator):
    """Always takes the best candidates. The rules are those of `mccore_allocators.replacement`."""

    def _choose(self, row: Positions, utility: NDArray[np.float64], wanted: NDArray[np.int64]) -> Positions:
        order = best_first(row, utility)
        return order[rank_in_row(row[order]) < wanted[row[order]]]


@hookimpl
def mccore_allocator() -> Extension[Allocator]:
    return Extension(
        build=GreedyAllocator,
        options=GreedyOptions,
        summary="expand the highest scores, pay with the lowest",
        reads=("scores",),
    )
