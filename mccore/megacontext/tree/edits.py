"""Edits of cuts: appending tokens, sharpening the tail, expanding and collapsing nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.megacontext.tree.cut import Cut, IllegalEdit, Indices, first_true, node_name

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
    expansions, parents = _sorted_nodes(expand, "expand"), _sorted_nodes(collapse, "collapse")
    if len(expansions) == 0 and len(parents) == 0 and len(cut) <= budget:
        _check_tail(cut, recent_tokens)
        return cut
    before = cut
    top = int(cut.level.max(initial=0))
    if (wrong := first_true((expansions[:, 0] < 1) | (expansions[:, 0] > top) | (expansions[:, 1] < 0))) is not None:
        why = "a token has nothing below it" if expansions[wrong, 0] == 0 else "it isn't in the cut"
        raise IllegalEdit(f"expand {node_name(*expansions[wrong])}: {why}")
    if (wrong := first_true((parents[:, 0] < 1) | (parents[:, 0] > max_lod) | (parents[:, 1] < 0))) is not None:
        raise IllegalEdit(
            f"collapse {node_name(*parents[wrong])}: a parent is at a level from 1 to {max_lod} and no index is negative"
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


def _sorted_nodes(edits: ArrayLike, kind: str) -> Indices:
    """Edits as int64 [E, 2], sorted. Raises IllegalEdit on another shape or a node listed twice."""
    nodes = np.asarray(edits)
    if nodes.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if nodes.ndim != 2 or nodes.shape[1] != 2 or nodes.dtype.kind not in "iu":
        raise IllegalEdit(f"{kind}: expected integers [edits, 2], got {nodes.dtype} {list(nodes.shape)}")
    nodes = nodes[np.lexsort((nodes[:, 1], nodes[:, 0]))].astype(np.int64)
    if (twice := first_true((nodes[1:] == nodes[:-1]).all(axis=1))) is not None:
        raise IllegalEdit(f"{kind} {node_name(*nodes[twice])}: listed twice")
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
    if (wrong := first_true(~present)) is not None:
        raise IllegalEdit(f"expand {node_name(level, index[wrong])}: it isn't in the cut")
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
    if (wrong := first_true(~complete)) is not None:
        raise IllegalEdit(
            f"collapse {node_name(level, index[wrong])}: it isn't complete in a history of {tokens} tokens"
        )
    if (wrong := first_true((index + 1) * size**level > tokens - recent_tokens)) is not None:
        raise IllegalEdit(f"collapse {node_name(level, index[wrong])}: it reaches into the last {recent_tokens} tokens")
    first, first_there = _find(cut, level - 1, index * size)
    last, last_there = _find(cut, level - 1, index * size + size - 1)
    # K entries inside one aligned parent, the outer two of its children's level: the others can only be children too.
    if (wrong := first_true(~(first_there & last_there & (last - first == size - 1)))) is not None:
        raise IllegalEdit(f"collapse {node_name(level, index[wrong])}: its {size} children aren't all in the cut")
    members = first[:, None] + np.arange(size)
    if (wrong := first_true(made[members].any(axis=1))) is not None:
        raise IllegalEdit(f"collapse {node_name(level, index[wrong])}: the same set expands what it covers")
    keep = np.ones(len(cut), dtype=bool)
    keep[members[:, 1:]] = False
    levels, indices = cut.level.copy(), cut.index.copy()
    levels[first], indices[first] = level, index
    return Cut(levels[keep], indices[keep], size), made[keep]


def _check_tail(cut: Cut, recent_tokens: int) -> None:
    if (wrong := first_true((cut.level > 0) & (cut.stop > cut.tokens - recent_tokens))) is not None:
        raise IllegalEdit(
            f"{node_name(cut.level[wrong], cut.index[wrong])} stays in the last {recent_tokens} tokens, which have to be LOD0"
        )
