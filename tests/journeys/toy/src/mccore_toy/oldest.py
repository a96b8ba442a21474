"""Forget the oldest first, whatever the scores say."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from mccore.api import Allocator, AllocatorSpec, Budget, Edits, Extension, FocusView, Options
from mccore.hookspecs import hookimpl


class OldestOptions(Options):
    """What `--allocator-keep-tokens` and `--allocator-eager` set."""

    keep_tokens: int = Field(64, ge=0, description="newest tokens that stay tokens")
    eager: bool = Field(False, description="collapse one block more than the budget asks for")


class Oldest:
    """Collapses from the start of the history until a row fits."""

    def __init__(self, options: OldestOptions, spec: AllocatorSpec) -> None:
        self.recent_tokens = options.keep_tokens
        self._spare = int(options.eager)
        self._spec = spec

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        collapse = []
        for row, tokens in enumerate(view.tokens.tolist()):
            levels = view.level[row][view.level[row] >= 0].tolist()
            spare = self._spare if len(levels) > budget.entries else 0
            for level in range(self._spec.max_lod):  # tokens into gists, then gists into gists of gists
                start = at = 0
                while at < len(levels) and (len(levels) > budget.entries or spare):
                    span = self._spec.block_size ** levels[at]
                    stop = start + span * self._spec.block_size
                    block = levels[at : at + self._spec.block_size]
                    aligned = start % (span * self._spec.block_size) == 0 and stop <= tokens - self.recent_tokens
                    if levels[at] == level and aligned and block == [level] * self._spec.block_size:
                        spare -= len(levels) <= budget.entries
                        levels[at : at + self._spec.block_size] = [level + 1]
                        collapse.append((row, level + 1, start // (span * self._spec.block_size)))
                        start = stop
                    else:
                        start += span
                    at += 1
        nothing = np.empty((0, 3), dtype=np.int64)
        return Edits(expand=nothing, collapse=np.array(collapse, dtype=np.int64).reshape(-1, 3))


@hookimpl
def mccore_allocator() -> Extension[Allocator]:
    return Extension(build=Oldest, options=OldestOptions, summary="forgets the oldest first")
