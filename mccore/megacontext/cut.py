"""Cuts: which nodes of the tree stand for a history, as integer arrays and nothing else.

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
    if (pairs < 0).any():
        raise CutError("a run of a cut has a negative level or length")
    return from_levels(np.repeat(pairs[:, 0], pairs[:, 1]), block_size)


# --- checks -----------------------------------------------------------------------------------------------------------


def check(
    cut: Cut, tokens: int, *, max_lod: int | None = None, recent_tokens: int = 0, budget: int | None = None
) -> None:
    """Raise CutError, naming the first bad entry, unless the cut tiles `[0, tokens)` within the limits given."""
    if cut.level.shape != cut.index.shape or cut.level.ndim != 1:
        raise CutError(f"level {cut.level.shape} and index {cut.index.shape} aren't two lists of one length")
    top = 127 if max_lod is None else max_lod
    if (wrong := _first((cut.level < 0) | (cut.level > top))) is not None:
        raise CutError(f"entry {wrong} is at LOD{cut.level[wrong]}, outside 0 to {top}")
    start, stop = cut.start, cut.stop
    expected = np.r_[0, stop[:-1]] if len(cut) else start
    if (wrong := _first(start != expected)) is not None:
        raise CutError(
            f"entry {wrong}, {_name(cut.level[wrong], cut.index[wrong])}, starts at token {start[wrong]} instead of "
            f"{expected[wrong]}"
        )
    if cut.tokens != tokens:
        raise CutError(f"the cut covers {cut.tokens} tokens of a history of {tokens}")
    if (wrong := _first((cut.level > 0) & (stop > tokens - recent_tokens))) is not None:
        raise CutError(
            f"entry {wrong}, {_name(cut.level[wrong], cut.index[wrong])}, reaches into the last {recent_tokens} tokens"
        )
    if budget is not None and len(cut) > budget:
        raise CutError(f"the cut has {len(cut)} entries, more than the budget of {budget}")


def _first(wrong: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def _name(level: int, index: int) -> str:
    return f"({int(level)}, {int(index)})"


# --- edits ------------------------------------------------------------------------------------------------------------


def append(cut: Cut, tokens: int) -> Cut:
    """The cut with `tokens` new tokens at LOD0 behind it."""
    n = cut.tokens
    return Cut(
        np.concatenate([cut.level, np.zeros(tokens, dtype=np.int8)]),
        np.concatenate([cut.index, np.arange(n, n + tokens, dtype=np.int64)]),
        cut.block_size,
    )


def sharpen_tail(cut: Cut, recent_tokens: int) -> Cut:
    """The cut with every node that reaches into the last `recent_tokens` tokens expanded until those are at LOD0.

    For a session whose allocator changed: in between, `append` and `apply` keep the tail by themselves.
    """
    first = cut.tokens - recent_tokens
    while (coarse := (cut.level > 0) & (cut.stop > first)).any():
        cut = _expand_at(cut, coarse)
    return cut


def apply(cut: Cut, expand: ArrayLike, collapse: ArrayLike, *, budget: int, recent_tokens: int, max_lod: int) -> Cut:
    """The cut after a set of edits, as one transaction.

    Args:
        expand: nodes `(level, index)` [E, 2] to replace by their K children.
        collapse: parents `(level, index)` [C, 2] whose K children, all present, become the parent.
        budget: entries allowed afterwards (W).
        recent_tokens: newest tokens that have to be at LOD0 afterwards.
        max_lod: coarsest level a collapse may make.

    The order within a set means nothing. A node that another expansion makes can itself be expanded, and a parent that
    another collapse makes can be collapsed further; the same tokens can't be expanded and collapsed at once.

    Raises IllegalEdit naming the first edit at fault; the cut given is never changed.
    """
    expansions, parents = _nodes(expand, "expand"), _nodes(collapse, "collapse")
    if len(expansions) == 0 and len(parents) == 0 and len(cut) <= budget:
        _check_tail(cut, recent_tokens)
        return cut
    before = cut
    top = int(cut.level.max(initial=0))
    if (wrong := _first((expansions[:, 0] < 1) | (expansions[:, 0] > top) | (expansions[:, 1] < 0))) is not None:
        why = "a token has nothing below it" if expansions[wrong, 0] == 0 else "it isn't in the cut"
        raise IllegalEdit(f"expand {_name(*expansions[wrong])}: {why}")
    if (wrong := _first((parents[:, 0] < 1) | (parents[:, 0] > max_lod) | (parents[:, 1] < 0))) is not None:
        raise IllegalEdit(
            f"collapse {_name(*parents[wrong])}: a parent is at a level from 1 to {max_lod} and no index is negative"
        )
    made = np.zeros(len(cut), dtype=bool)  # entries that an expansion of this set made
    for lod in range(int(expansions[:, 0].max(initial=0)), 0, -1):
        cut, made = _expand_level(cut, made, lod, expansions[expansions[:, 0] == lod, 1])
    for lod in range(1, int(parents[:, 0].max(initial=0)) + 1):
        cut, made = _collapse_level(cut, made, lod, parents[parents[:, 0] == lod, 1], recent_tokens)
    if len(cut) > budget:
        raise IllegalEdit(
            f"{len(expansions)} expansions and {len(parents)} collapses turn {len(before)} entries into {len(cut)}, "
            f"more than the budget of {budget}"
        )
    _check_tail(cut, recent_tokens)
    return cut


def _nodes(edits: ArrayLike, kind: str) -> Indices:
    """Edits as int64 [E, 2], sorted. Raises IllegalEdit on another shape or a node listed twice."""
    nodes = np.asarray(edits)
    if nodes.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if nodes.ndim != 2 or nodes.shape[1] != 2 or nodes.dtype.kind not in "iu":
        raise IllegalEdit(f"{kind}: expected integers [edits, 2], got {nodes.dtype} {list(nodes.shape)}")
    nodes = nodes[np.lexsort((nodes[:, 1], nodes[:, 0]))].astype(np.int64)
    if (twice := _first((nodes[1:] == nodes[:-1]).all(axis=1))) is not None:
        raise IllegalEdit(f"{kind} {_name(*nodes[twice])}: listed twice")
    return nodes


def _find(cut: Cut, level: int, index: Indices) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the nodes `(level, index)` would stand in the cut, and whether they do."""
    # A start beyond every token of the cut can't be found, and clipping keeps the product within int64.
    start = np.minimum(index, np.iinfo(np.int64).max // cut.block_size**level) * cut.block_size**level
    at = np.searchsorted(cut.start, start)
    inside = np.minimum(at, max(len(cut) - 1, 0))
    if not len(cut):
        return inside, np.zeros(len(index), dtype=bool)
    return inside, (at < len(cut)) & (cut.level[inside] == level) & (cut.index[inside] == index)


def _expand_level(cut: Cut, made: NDArray[np.bool_], level: int, index: Indices) -> tuple[Cut, NDArray[np.bool_]]:
    if len(index) == 0:
        return cut, made
    at, present = _find(cut, level, index)
    if (wrong := _first(~present)) is not None:
        raise IllegalEdit(f"expand {_name(level, index[wrong])}: it isn't in the cut")
    chosen = np.zeros(len(cut), dtype=bool)
    chosen[at] = True
    return _expand_at(cut, chosen), np.repeat(made | chosen, np.where(chosen, cut.block_size, 1))


def _expand_at(cut: Cut, chosen: NDArray[np.bool_]) -> Cut:
    """The cut with the entries where `chosen` [L] replaced by their children."""
    repeats = np.where(chosen, cut.block_size, 1)
    first = np.cumsum(repeats) - repeats
    level = np.repeat(cut.level - chosen, repeats)
    child = np.arange(len(level)) - np.repeat(first, repeats)  # 0 for entries that stay
    index = np.repeat(np.where(chosen, cut.index * cut.block_size, cut.index), repeats) + child
    return Cut(level, index, cut.block_size)


def _collapse_level(
    cut: Cut, made: NDArray[np.bool_], level: int, index: Indices, recent_tokens: int
) -> tuple[Cut, NDArray[np.bool_]]:
    if len(index) == 0:
        return cut, made
    size, tokens = cut.block_size, cut.tokens
    complete = index < tokens // size**level
    if (wrong := _first(~complete)) is not None:
        raise IllegalEdit(f"collapse {_name(level, index[wrong])}: it isn't complete in a history of {tokens} tokens")
    if (wrong := _first((index + 1) * size**level > tokens - recent_tokens)) is not None:
        raise IllegalEdit(f"collapse {_name(level, index[wrong])}: it reaches into the last {recent_tokens} tokens")
    first, first_there = _find(cut, level - 1, index * size)
    last, last_there = _find(cut, level - 1, index * size + size - 1)
    # K entries inside one aligned parent, the outer two of its children's level: the others can only be children too.
    if (wrong := _first(~(first_there & last_there & (last - first == size - 1)))) is not None:
        raise IllegalEdit(f"collapse {_name(level, index[wrong])}: its {size} children aren't all in the cut")
    members = first[:, None] + np.arange(size)
    if (wrong := _first(made[members].any(axis=1))) is not None:
        raise IllegalEdit(f"collapse {_name(level, index[wrong])}: the same set expands what it covers")
    keep = np.ones(len(cut), dtype=bool)
    keep[members[:, 1:]] = False
    levels, indices = cut.level.copy(), cut.index.copy()
    levels[first], indices[first] = level, index
    return Cut(levels[keep], indices[keep], size), made[keep]


def _check_tail(cut: Cut, recent_tokens: int) -> None:
    if (wrong := _first((cut.level > 0) & (cut.stop > cut.tokens - recent_tokens))) is not None:
        raise IllegalEdit(
            f"{_name(cut.level[wrong], cut.index[wrong])} stays in the last {recent_tokens} tokens, which have to be LOD0"
        )
