"""Cuts: which nodes of the tree stand for a history, and the arithmetic of nodes (level, index), in integer arrays alone.

A node `(level, index)` covers the tokens `[index * K**level, (index + 1) * K**level)`; a cut lists nodes that tile `[0, n)`
exactly, in order. Start, span, centre, coverage and every legal edit follow by arithmetic, so no other state exists that
could disagree. A collapse is named by its parent, which makes a misaligned one impossible to write down.

`apply` is the only way to edit: a set of expansions and collapses is legal as a whole or refused as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.errors import MccoreError, PluginError

Levels = NDArray[np.int8]

Indices = NDArray[np.int64]

PADDING = -1  # level of the entries that only fill a row of a batch


class CutError(MccoreError):
    """Arrays that aren't a cut of the history they are meant to cover."""


class IllegalEdit(PluginError):
    """A set of edits that would leave something else than a legal cut; none of them was applied."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A tiling of `[0, n)` by `L` nodes of a tree with `block_size` (K) children per node. Immutable."""

    level: Levels  # [L]
    index: Indices  # [L]
    block_size: int

    def __post_init__(self) -> None:
        for name, dtype in (("level", np.int8), ("index", np.int64)):
            frozen = np.asarray(getattr(self, name), dtype=dtype).view()
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)

    def __len__(self) -> int:
        return len(self.level)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cut):
            return NotImplemented
        return (
            self.block_size == other.block_size
            and np.array_equal(self.level, other.level)
            and np.array_equal(self.index, other.index)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def span(self) -> Indices:
        """Tokens under each entry, int64 [L]."""
        return spans(self.level, self.block_size)

    @property
    def start(self) -> Indices:
        """First token of each entry, int64 [L]."""
        return self.index * self.span

    @property
    def stop(self) -> Indices:
        """One past the last token of each entry, int64 [L]."""
        return (self.index + 1) * self.span

    @property
    def centre(self) -> NDArray[np.float64]:
        """Mean token position of each entry, float64 [L]: the token's own position at LOD0."""
        return centres(self.level, self.index, self.block_size)

    @property
    def tokens(self) -> int:
        """Tokens of the history that is covered (n)."""
        return int((self.index[-1] + 1) * spans(self.level[-1:], self.block_size)[0]) if len(self) else 0


# --- arithmetic on arrays of any shape, padding included --------------------------------------------------------------


def spans(level: NDArray[Any], block_size: int) -> Indices:
    """Tokens under each entry, `K**level`, in the shape of `level`; 0 for padding."""
    top = int(level.max(initial=0))
    table = np.zeros(top + 2, dtype=np.int64)  # the last cell answers for padding, level -1
    table[: top + 1] = np.int64(block_size) ** np.arange(top + 1, dtype=np.int64)
    out: Indices = table[level]
    return out


def centres(level: NDArray[Any], index: NDArray[Any], block_size: int) -> NDArray[np.float64]:
    """Mean token position of each entry in the shape of `level`; -0.5 for padding."""
    span = spans(level, block_size)
    return index * span + (span - 1) / 2


def contiguous_centres(level: NDArray[Any], index: NDArray[Any], block_size: int) -> NDArray[np.float64]:
    """Like `centres` for the entries [L] of a whole cut, but tokens are numbered without gaps, back from the newest one: a run
    of tokens from far away stands right before those that follow it in the cut."""
    raw = level == 0
    at = centres(level, index, block_size)
    if not len(at):
        return at
    stop = at[-1] + (spans(level[-1:], block_size)[0] + 1) / 2
    return np.where(raw, stop - np.cumsum(raw[::-1])[::-1], at)


def histogram(level: NDArray[Any], max_lod: int) -> Indices:
    """Entries per level, int64 [..., max_lod + 1], over the last axis; padding isn't counted."""
    return np.stack([(level == lod).sum(axis=-1) for lod in range(max_lod + 1)], axis=-1).astype(np.int64)


def coverage(level: NDArray[Any], block_size: int, max_lod: int) -> Indices:
    """Tokens covered per level, int64 [..., max_lod + 1], over the last axis."""
    return histogram(level, max_lod) * np.int64(block_size) ** np.arange(max_lod + 1, dtype=np.int64)


# --- cuts of a given history ------------------------------------------------------------------------------------------


def finest(tokens: int, block_size: int) -> Cut:
    """Every token at LOD0."""
    return Cut(np.zeros(tokens, dtype=np.int8), np.arange(tokens, dtype=np.int64), block_size)


def coarsest(tokens: int, block_size: int, max_lod: int, recent_tokens: int) -> Cut:
    """The shortest cut whose last `recent_tokens` tokens are at LOD0 and whose nodes stay within `max_lod`."""
    return _terraces(tokens, block_size, _coarsest_stops(tokens, block_size, max_lod, recent_tokens))


def recency_pyramid(tokens: int, block_size: int, max_lod: int, recent_tokens: int, budget: int) -> Cut:
    """A cut of at most `budget` entries whose detail only grows with time; the coarsest one when even that is longer.

    What the coarsest cut leaves free is spent on expansions of the newest nodes, shared evenly among the levels.
    """
    stops = _coarsest_stops(tokens, block_size, max_lod, recent_tokens)
    affordable = max(0, budget - len(_terraces(tokens, block_size, stops))) // (block_size - 1)
    for lod in range(max_lod, 0, -1):
        span = block_size**lod
        coarser = stops[lod + 1] if lod < max_lod else 0
        expanded = min((stops[lod] - coarser) // span, -(-affordable // lod))
        stops[lod] -= expanded * span
        affordable -= expanded
    return _terraces(tokens, block_size, stops)


def from_levels(level: ArrayLike, block_size: int) -> Cut:
    """The cut whose entries have these levels, in order. Raises CutError when a node would not start at its own multiple."""
    levels = np.asarray(level, dtype=np.int8)
    span = spans(levels, block_size)
    start = np.cumsum(span) - span
    if (levels < 0).any() or (start % np.maximum(span, 1)).any():
        at = int(np.argmax((levels < 0) | (start % np.maximum(span, 1) != 0)))
        raise CutError(f"entry {at} at LOD{levels[at]} can't start at token {start[at]}")
    return Cut(levels, start // np.maximum(span, 1), block_size)


def _coarsest_stops(tokens: int, block_size: int, max_lod: int, recent_tokens: int) -> list[int]:
    editable = max(0, tokens - recent_tokens)
    return [tokens, *(editable // block_size**lod * block_size**lod for lod in range(1, max_lod + 1))]


def _terraces(tokens: int, block_size: int, stops: Sequence[int]) -> Cut:
    """The cut that is at level k from `stops[k + 1]` to `stops[k]`; stops are multiples of their spans and don't rise."""
    levels, indices = [], []
    for lod in range(len(stops) - 1, -1, -1):
        first = (stops[lod + 1] if lod + 1 < len(stops) else 0) // block_size**lod
        run = np.arange(first, stops[lod] // block_size**lod, dtype=np.int64)
        levels.append(np.full(len(run), lod, dtype=np.int8))
        indices.append(run)
    return Cut(np.concatenate(levels), np.concatenate(indices), block_size)


# --- snapshots --------------------------------------------------------------------------------------------------------


def encode_runs(cut: Cut) -> list[tuple[int, int]]:
    """A cut as runs of equal level, `(level, entries)` in order: a few pairs for thousands of entries."""
    if not len(cut):
        return []
    first = np.flatnonzero(np.r_[True, cut.level[1:] != cut.level[:-1]])
    counts = np.diff(np.r_[first, len(cut)])
    return list(zip(cut.level[first].tolist(), counts.tolist(), strict=True))


def decode_runs(runs: Sequence[Sequence[int]], block_size: int) -> Cut:
    """The cut that `encode_runs` wrote. Raises CutError when the runs don't tile a history."""
    pairs = np.asarray(runs, dtype=np.int64).reshape(-1, 2)
    if (pairs < 0).any() or (pairs[:, 0] > 62 // (block_size - 1).bit_length()).any():
        raise CutError("a run of a cut has a level or length that can't be")
    return from_levels(np.repeat(pairs[:, 0], pairs[:, 1]), block_size)


# --- checks -----------------------------------------------------------------------------------------------------------


def check(
    cut: Cut, tokens: int, *, max_lod: int | None = None, recent_tokens: int = 0, budget: int | None = None
) -> None:
    """Raise CutError, naming the first bad entry, unless the cut tiles `[0, tokens)` within the limits given."""
    if cut.level.shape != cut.index.shape or cut.level.ndim != 1:
        raise CutError(f"level {cut.level.shape} and index {cut.index.shape} aren't two lists of one length")
    top = 127 if max_lod is None else max_lod
    if (wrong := first_true((cut.level < 0) | (cut.level > top))) is not None:
        raise CutError(f"entry {wrong} is at LOD{cut.level[wrong]}, outside 0 to {top}")
    start, stop = cut.start, cut.stop
    expected = np.r_[0, stop[:-1]] if len(cut) else start
    if (wrong := first_true(start != expected)) is not None:
        raise CutError(
            f"entry {wrong}, {node_name(cut.level[wrong], cut.index[wrong])}, starts at token {start[wrong]} instead of "
            f"{expected[wrong]}"
        )
    if cut.tokens != tokens:
        raise CutError(f"the cut covers {cut.tokens} tokens of a history of {tokens}")
    if (wrong := first_true((cut.level > 0) & (stop > tokens - recent_tokens))) is not None:
        raise CutError(
            f"entry {wrong}, {node_name(cut.level[wrong], cut.index[wrong])}, reaches into the last {recent_tokens} tokens"
        )
    if budget is not None and len(cut) > budget:
        raise CutError(f"the cut has {len(cut)} entries, more than the budget of {budget}")


def first_true(wrong: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def node_name(level: int, index: int) -> str:
    return f"({int(level)}, {int(index)})"
