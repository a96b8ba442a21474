"""The entries of all rows of a view end to end, without padding, and what edits make of them.

Scores and ages travel with the entries: children take those of the node they replace, a parent the mean score and the least
age of its children.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mccore.api import FocusView

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Entries:
    """N entries of B rows, ordered by row and time. `expanded` and `collapsed` mark what an edit of this plan made."""

    row: Positions  # [N]
    level: NDArray[np.int64]  # [N]
    index: NDArray[np.int64]  # [N]
    score: NDArray[np.float64]  # [N]
    age: NDArray[np.int64]  # [N]
    expanded: NDArray[np.bool_]  # [N]
    collapsed: NDArray[np.bool_]  # [N]

    @classmethod
    def of(cls, view: FocusView) -> Entries:
        """The entries of a view."""
        there = view.level >= 0
        row = np.nonzero(there)[0]
        return cls(
            row,
            view.level[there].astype(np.int64),
            view.index[there],
            view.score[there].astype(np.float64),
            view.age[there].astype(np.int64),
            np.zeros(len(row), dtype=bool),
            np.zeros(len(row), dtype=bool),
        )

    def lengths(self, rows: int) -> NDArray[np.int64]:
        """Entries of each row [B]."""
        return np.bincount(self.row, minlength=rows)

    def nodes(self, at: Positions) -> NDArray[np.int64]:
        """`(row, level, index)` of the entries at these positions [E, 3]."""
        return np.stack([self.row[at], self.level[at], self.index[at]], axis=1)

    def edited(self, expand: Positions, blocks: Blocks, block_size: int) -> Entries:
        """The entries after expanding those at `expand` and collapsing `blocks`, which have none in common."""
        copies = np.ones(len(self.row), dtype=np.intp)
        copies[expand] = block_size
        copies[blocks.members[:, 1:]] = 0
        level, index, score, age = self.level.copy(), self.index.copy(), self.score.copy(), self.age.copy()
        expanded, collapsed = self.expanded.copy(), self.collapsed.copy()
        level[expand] -= 1
        index[expand] *= block_size
        expanded[expand] = True
        level[blocks.first] += 1
        index[blocks.first] //= block_size
        score[blocks.first], age[blocks.first] = blocks.score, blocks.age
        collapsed[blocks.first] = True
        start = np.cumsum(copies) - copies
        child = np.arange(int(copies.sum())) - np.repeat(start, copies)  # 0 for every entry that isn't a child
        return Entries(
            np.repeat(self.row, copies),
            np.repeat(level, copies),
            np.repeat(index, copies) + child,
            np.repeat(score, copies),
            np.repeat(age, copies),
            np.repeat(expanded, copies),
            np.repeat(collapsed, copies),
        )


@dataclass(frozen=True)
class Blocks:
    """C groups of K siblings that may become their parent."""

    members: Positions  # [C, K] positions among the entries
    row: Positions  # [C]
    level: NDArray[np.int64]  # [C] of the parent
    index: NDArray[np.int64]  # [C] of the parent
    score: NDArray[np.float64]  # [C] mean over the siblings
    age: NDArray[np.int64]  # [C] least of the siblings

    @property
    def first(self) -> Positions:
        """Position of the first sibling [C]."""
        return self.members[:, 0]

    def nodes(self) -> NDArray[np.int64]:
        """`(row, level, index)` of the parents [C, 3]."""
        return np.stack([self.row, self.level, self.index], axis=1)

    def at(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Blocks:
        """Some of the blocks."""
        return Blocks(
            self.members[chosen],
            self.row[chosen],
            self.level[chosen],
            self.index[chosen],
            self.score[chosen],
            self.age[chosen],
        )


def complete_blocks(
    entries: Entries, tokens: NDArray[np.int64], block_size: int, max_lod: int, recent_tokens: int
) -> Blocks:
    """Every block whose K siblings are all there, with a parent within `max_lod` that ends before the recent tail."""
    reach = block_size - 1
    ahead = slice(0, max(len(entries.row) - reach, 0))
    row, level, index = entries.row[ahead], entries.level[ahead], entries.index[ahead]
    # An entry and the K-th from it are of one level and K - 1 indices apart: inside one aligned parent, only their
    # siblings fit in between.
    first = np.flatnonzero(
        (index % block_size == 0)
        & (level < max_lod)
        & (level == entries.level[reach:])
        & (index + reach == entries.index[reach:])
        & (row == entries.row[reach:])
    )
    stop = (index[first] + block_size) * np.int64(block_size) ** level[first]
    first = first[stop <= tokens[row[first]] - recent_tokens]
    members = first[:, None] + np.arange(block_size)
    members = members[~entries.expanded[members].any(axis=1)]  # what this plan expands, it doesn't collapse
    first = members[:, 0]
    return Blocks(
        members,
        entries.row[first],
        entries.level[first] + 1,
        entries.index[first] // block_size,
        entries.score[members].mean(axis=1),
        entries.age[members].min(axis=1),
    )
