"""What can be saved of a damaged tree: gists are made again from what lies below them, tokens can only be vouched for.

A backend knows which stretches don't match their checksums, and nothing of blocks. Here each becomes nodes and tokens. The
gists over a suspicious stretch of tokens tell which of its blocks are as they were: a block whose gist comes out bit for
bit as it is stored has its tokens. So a flipped bit costs a block of K tokens, not the 64 KiB that one checksum covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mccore.api import RepairableTree, TreeBackend, TreeDamage
from mccore.errors import MccoreError
from mccore.megacontext.tree.overlay import lengths_at
from mccore.megacontext.tree.tree import BlockEncoder, TreeError

Range = tuple[int, int]  # rows [start, stop)
_CALL_BLOCKS = 1024
_SAMPLE = 8  # sound blocks that show whether this model made the gists
_SAME_MODEL = 0.05  # relative error up to which two machines' roundings explain a difference


@dataclass(frozen=True)
class Nodes:
    """Nodes `[start, stop)` of a level and the tokens `[first_token, stop_token)` that they cover; level 0 is tokens."""

    level: int
    start: int
    stop: int
    first_token: int
    stop_token: int


@dataclass(frozen=True)
class Finding:
    """A damaged stretch of a file and the nodes in it."""

    damage: TreeDamage
    nodes: Nodes


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    `restored`: gists made again. `inexact`: those of them that differ from what was stored by a checksum that may itself
    be what was damaged, or by another machine's rounding. `vouched`: tokens that their gists showed to be right.
    `lost`: what can't be told or made again. `kept`: where the tree as it was lies, if anything was cut off. `tokens`: of
    the history now.
    """

    restored: tuple[Nodes, ...]
    inexact: tuple[Nodes, ...]
    vouched: tuple[Nodes, ...]
    lost: tuple[Nodes, ...]
    kept: Path | None
    tokens: int


def verify_tree(backend: TreeBackend, block_size: int) -> tuple[Finding, ...]:
    """Everything in a tree that doesn't match its checksum; reads all of it, needs no model and writes nothing.

    Raises TreeError for a backend that keeps no checksums, RunError for files that can't be read at all.
    """
    return tuple(
        Finding(found, _nodes(found.level, (found.start, found.stop), block_size, backend.length(0)))
        for found in _repairable(backend).damage()
    )


def repair_tree(backend: TreeBackend, encoder: BlockEncoder, *, truncate: bool = False) -> Repair:
    """Make damaged gists again and vouch for tokens where their gists allow it; what stays damaged is `lost`.

    With `truncate`, and only then, the history is cut before the first lost token; a copy of the tree as it was is kept.
    `backend` was opened with `TreeSpec.salvage`, `encoder` belongs to the model that made the tree. Raises TreeError for
    another model or a backend that can't be repaired, RunError.
    """
    tree = _repairable(backend)
    size, levels = encoder.block_size, encoder.max_lod + 1
    damaged = [_merge((found.start, found.stop) for found in tree.damage() if found.level == k) for k in range(levels)]
    restored: list[Nodes] = []
    inexact: list[Nodes] = []
    vouched: list[Nodes] = []
    lost: list[list[Range]] = [[] for _ in range(levels)]
    before = tokens = tree.length(0)
    if any(damaged):
        _check_model(tree, encoder, damaged)
    for start, stop in damaged[0]:
        missing = [(max(a, start), min(b, stop)) for a, b in _unproved(tree, encoder, (start, stop), damaged[1])]
        if not missing:
            tree.restore(0, start, tree.read(0, start, stop))
        lost[0] += missing
        vouched += [_nodes(0, rows, size, before) for rows in _without((start, stop), missing)]
    for level in range(1, levels):
        for whole in damaged[level]:
            gone = [(a // size, -(-b // size)) for a, b in lost[level - 1]]
            gone.append((tree.length(level - 1) // size, tree.length(level)))  # gists of nothing
            lost[level] += _common(whole, gone)
            for start, stop in _without(whole, gone):
                exact = tree.restore(level, start, _made(tree, encoder, level, start, stop))
                restored.append(_nodes(level, (start, stop), size, before))
                if not exact:
                    inexact.append(restored[-1])
    kept = None
    if truncate and any(lost):
        tokens = min(first * size**level for level in range(levels) for first, _ in lost[level])
        most = lengths_at(tokens, size, levels)
        kept = tree.truncate(tuple(min(tree.length(level), most[level]) for level in range(levels)))
    nodes = tuple(_nodes(level, rows, size, before) for level in range(levels) for rows in lost[level])
    return Repair(tuple(restored), tuple(inexact), tuple(vouched), nodes, kept, tokens)


def _repairable(backend: TreeBackend) -> RepairableTree:
    if not isinstance(backend, RepairableTree):
        raise TreeError(
            f"a {type(backend).__name__} keeps no checksums: what is damaged in it can't be told",
            hint="choose the `disk` tree for what should last",
        )
    return backend


def _made(tree: TreeBackend, encoder: BlockEncoder, level: int, start: int, stop: int) -> np.ndarray:
    """The rows `[start, stop)` of a level of gists, made from the level below."""
    size = encoder.block_size
    return np.concatenate(
        [
            encoder.encode(tree.read(level - 1, at * size, min(at + _CALL_BLOCKS, stop) * size), level)
            for at in range(start, stop, _CALL_BLOCKS)
        ]
    )


def _unproved(tree: TreeBackend, encoder: BlockEncoder, rows: Range, bad_gists: Sequence[Range]) -> list[Range]:
    """The stretches of tokens, in whole blocks, among `rows` that no gist vouches for."""
    size, tokens = encoder.block_size, tree.length(0)
    blocks = (rows[0] // size, -(-rows[1] // size))
    made = (blocks[0], max(blocks[0], min(blocks[1], tree.length(1))))
    unproved = [(made[1], blocks[1]), *_common(made, bad_gists)]
    for first, last in _without(made, bad_gists):
        for start in range(first, last, _CALL_BLOCKS):
            stop = min(start + _CALL_BLOCKS, last)
            unproved += _differing(tree, encoder, start, stop)
    return [(a * size, min(b * size, tokens)) for a, b in _merge(unproved)]


def _differing(tree: TreeBackend, encoder: BlockEncoder, start: int, stop: int) -> list[Range]:
    """The blocks among `[start, stop)` whose tokens can't be read or give another gist than the stored one."""
    try:
        made = _made(tree, encoder, 1, start, stop)
    except (MccoreError, IndexError):  # the file ends there, or the ids are none of this model's
        return (
            [(start, stop)]
            if stop - start == 1
            else [each for block in range(start, stop) for each in _differing(tree, encoder, block, block + 1)]
        )
    differs = (made != tree.read(1, start, stop)).any(axis=1)
    return [(start + int(block), start + int(block) + 1) for block in np.flatnonzero(differs)]


def _check_model(tree: TreeBackend, encoder: BlockEncoder, damaged: Sequence[Sequence[Range]]) -> None:
    """Raise TreeError when gists of sound blocks come out as quite another model would make them."""
    size = encoder.block_size
    bad = [*damaged[1], *((a // size, -(-b // size)) for a, b in damaged[0])]
    sound = [block for a, b in _without((0, tree.length(1)), bad) for block in range(a, min(b, a + _SAMPLE))][:_SAMPLE]
    for block in sound:
        made, there = (
            encoder.from_rows(rows)
            for rows in (_made(tree, encoder, 1, block, block + 1), tree.read(1, block, block + 1))
        )
        if float((made - there).norm()) > _SAME_MODEL * float(there.norm()):
            raise TreeError(
                "the gists of this tree were made by another model than the one that is to repair it",
                hint="give the model that made the tree",
            )


# --- ranges of rows ---------------------------------------------------------------------------------------------------


def _nodes(level: int, rows: Range, block_size: int, tokens: int) -> Nodes:
    span = block_size**level
    return Nodes(level, *rows, rows[0] * span, min(rows[1] * span, tokens))


def _merge(ranges: Iterable[Range]) -> list[Range]:
    """The same rows as ascending ranges that don't touch."""
    merged: list[Range] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _common(rows: Range, others: Iterable[Range]) -> list[Range]:
    """The part of `rows` that is in one of the others."""
    return _merge((max(rows[0], start), min(rows[1], stop)) for start, stop in others)


def _without(rows: Range, others: Iterable[Range]) -> list[Range]:
    """The part of `rows` that is in none of the others."""
    left, at = [], rows[0]
    for start, stop in _common(rows, others):
        left.append((at, start))
        at = stop
    return [(start, stop) for start, stop in [*left, (at, rows[1])] if start < stop]
