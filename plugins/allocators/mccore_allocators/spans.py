"""Show the best spans that a search found, the rest of the far past as gists, and as many of the newest tokens as fit.

Every plan builds the cut that it wants anew, and its edits lead there from the present one. In that cut the raw tail starts
at a multiple of K, as early as the budget allows; before it, up to `spans` of the spans found are tokens, and all else is as
coarse as `max_lod` and the edges of spans and tail let it be.

Spans are taken by score, newer ones first among equals. One that is shown already counts for `hysteresis` more, so that only
a clearly better one takes its place. One that lies in the tail needs no place, but stays chosen: no span of a lower score
may take the tail's entries if it would push one out for which there is no place. Where nothing was found, the cut is a
window with a coarse past; scores and ages of entries have no part in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mccore.api import Allocator, AllocatorOptions, AllocatorSpec, Budget, Edits, Extension, FocusView, Found
from mccore.hookspecs import hookimpl

Span = tuple[int, int]
"""First token, and one past the last; both multiples of the block size."""
Run = tuple[int, int]
"""A level, and how many entries of it follow each other."""


class SpansOptions(AllocatorOptions):
    """Options of the spans allocator."""

    spans: int = Field(2, ge=0, description="most spans found that are shown as tokens before the raw tail")
    hysteresis: float = Field(0.1, ge=0, description="share by which a span's score counts more while it is shown")
    recent_tokens: int = Field(128, ge=0, description="newest tokens that always stay at LOD0, and least raw tail")


@dataclass(frozen=True)
class Tiling:
    """A cut of one row: level and first token of each of its L entries."""

    level: NDArray[np.int64]  # [L]
    start: NDArray[np.int64]  # [L]


class SpansAllocator:
    """Builds the wanted cut of each row by the rules at the top of this module."""

    def __init__(self, options: SpansOptions, spec: AllocatorSpec) -> None:
        self.recent_tokens = options.recent_tokens
        self._options = options
        self._block_size = spec.block_size
        self._widths = [spec.block_size**lod for lod in range(spec.max_lod + 1)]

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        """Edits that lead from the present cut of every row to the wanted one."""
        expand, collapse = [np.empty((0, 3), dtype=np.int64)], [np.empty((0, 3), dtype=np.int64)]
        for row, tokens in enumerate(view.tokens.tolist()):
            there = view.level[row] >= 0
            level = view.level[row][there].astype(np.int64)
            present = Tiling(level, view.index[row][there] * np.int64(self._block_size) ** level)
            spans = [] if view.found is None else self._ranked(view.found, row, present)
            wanted = self._tiling(tokens, *self._choose(tokens, budget.entries, spans))
            expand += self._between(row, wanted, present)
            collapse += self._between(row, present, wanted)
        return Edits(expand=np.concatenate(expand), collapse=np.concatenate(collapse))

    def _ranked(self, found: Found, row: int, present: Tiling) -> list[Span]:
        """The spans of a row, those first that are worth most."""
        of_row = found.row == row
        start, stop, score = found.start[of_row], found.stop[of_row], found.score[of_row]
        entries = np.searchsorted(present.start, stop) - np.searchsorted(present.start, start)
        shown = entries == stop - start  # an entry begins at each of its tokens
        worth = np.where(shown, score * (1 + self._options.hysteresis), score)
        order = np.lexsort((-start, -worth))
        return list(zip(start[order].tolist(), stop[order].tolist(), strict=True))

    def _choose(self, tokens: int, entries: int, ranked: Sequence[Span]) -> tuple[int, list[Span]]:
        """First token of the tail, and the spans before it in the order of time."""
        chosen: list[Span] = []
        tail = self._tail(tokens, entries, chosen)
        if tail is None:
            return self._latest_tail(tokens), []
        # The tail only starts later as spans are added, and what it has left behind stays outside of it. So what is rejected
        # would be rejected with more spans chosen, too: a plan that starts at its own result changes nothing.
        for span in ranked:
            if _before(tail, chosen) == self._options.spans:
                break  # only spans in the tail could still join, and those are shown
            more = sorted([*chosen, span])
            later = tail if span[0] >= tail else self._tail(tokens, entries, more)
            if later is not None and _before(later, more) <= self._options.spans:
                chosen, tail = more, later
        return tail, chosen[: _before(tail, chosen)]

    def _latest_tail(self, tokens: int) -> int:
        """First token of the shortest tail that is allowed."""
        return max(0, tokens - self.recent_tokens) // self._block_size * self._block_size

    def _tail(self, tokens: int, entries: int, spans: Sequence[Span]) -> int | None:
        """First token of the longest tail with which a cut that shows `spans` has at most `entries`, if there is one.

        Collapsing tokens into the coarsest cut takes one collapse for every node that is complete, and each saves K - 1
        entries. So the tail starts where enough nodes are complete before it.
        """
        size = self._block_size
        needed = -(-(tokens - entries) // (size - 1))
        gaps = _gaps(spans, tokens)
        starts = range(max(0, tokens - entries) // size * size, self._latest_tail(tokens) + 1, size)
        at = bisect_left(starts, needed, key=lambda start: self._complete(gaps, start))
        return starts[at] if at < len(starts) else None

    def _complete(self, gaps: Sequence[Span], stop: int) -> int:
        """Nodes at LOD1 and above that lie wholly in one of the gaps and before `stop`."""
        return sum(
            max(0, min(last, stop) // width - -(-first // width)) for first, last in gaps for width in self._widths[1:]
        )

    def _tiling(self, tokens: int, tail: int, spans: Sequence[Span]) -> Tiling:
        """The shortest cut that has `spans` and everything from `tail` on as tokens."""
        runs: list[Run] = []
        for (first, last), (_, stop) in zip(_gaps(spans, tail), [*spans, (tail, tokens)], strict=True):
            runs += [*self._terraces(first, last), (0, stop - last)]
        level = np.repeat(*np.array(runs, dtype=np.int64).T)
        width = np.array(self._widths)[level]
        return Tiling(level, np.cumsum(width) - width)

    def _terraces(self, first: int, last: int) -> list[Run]:
        """The fewest nodes that tile `[first, last)`: levels rise from its start and fall towards its end."""
        inner = [(-(-first // width) * width, last // width * width) for width in self._widths]
        inner = [(start, stop) for start, stop in inner if start < stop]
        rising, falling = [], []
        for lod, ((start, stop), (rise, fall)) in enumerate(pairwise(inner)):
            rising.append((lod, (rise - start) // self._widths[lod]))
            falling.append((lod, (stop - fall) // self._widths[lod]))
        top = [(len(inner) - 1, (inner[-1][1] - inner[-1][0]) // self._widths[len(inner) - 1])] if inner else []
        return [*rising, *top, *reversed(falling)]

    def _between(self, row: int, fine: Tiling, coarse: Tiling) -> list[NDArray[np.int64]]:
        """Nodes `(row, level, index)` [E, 3] above entries of `fine`, up to the entry of `coarse` that covers these, by level.

        Each begins with an entry of `fine`, its first, so none is listed twice.
        """
        above = coarse.level[np.searchsorted(coarse.start, fine.start, side="right") - 1]
        nodes = []
        for lod in range(1, int(above.max(initial=0)) + 1):
            width = self._block_size**lod
            index = fine.start[(fine.level < lod) & (lod <= above) & (fine.start % width == 0)] // width
            nodes.append(np.stack([np.full_like(index, row), np.full_like(index, lod), index], axis=1))
        return nodes


def _gaps(spans: Sequence[Span], stop: int) -> list[Span]:
    """What lies before, between and after spans in the order of time, up to `stop`."""
    return list(zip([0, *(last for _, last in spans)], [*(first for first, _ in spans), stop], strict=True))


def _before(tail: int, spans: Sequence[Span]) -> int:
    """How many spans begin before the tail."""
    return sum(first < tail for first, _ in spans)


@hookimpl
def mccore_allocator() -> Extension[Allocator]:
    return Extension(
        build=SpansAllocator,
        options=SpansOptions,
        summary="the best spans found as tokens, the rest coarse, then a raw tail; a plain window where nothing is found",
        reads=("found",),
    )
