"""Keep the tree in memory: the fastest backend, gone with the process."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mccore.api import Extension, Options, TreeBackend, TreeSpec
from mccore.hookspecs import hookimpl
from mccore_trees.rows import RowType

_FIRST_ROWS = 1024


class RamOptions(Options):
    """There is nothing to choose."""


class RamTree:
    """One array per level that doubles when it is full, so that appending costs O(1) per row on average.

    Reads are read-only views without a copy. A view taken before a level moved to a larger array keeps the smaller one
    alive and goes on showing the same rows, because rows never change.
    """

    def __init__(self, options: RamOptions, spec: TreeSpec) -> None:
        self._types = [RowType(level, each) for level, each in enumerate(spec.levels)]
        self._rows: list[NDArray[Any]] = [each.empty(0) for each in self._types]
        self._lengths = [0] * len(self._types)

    def length(self, level: int) -> int:
        """Rows of a level. Raises IndexError for a level outside the spec."""
        if not 0 <= level < len(self._lengths):
            raise IndexError(f"level {level} of a tree of {len(self._lengths)} levels")
        return self._lengths[level]

    def append(self, level: int, rows: NDArray[Any]) -> None:
        """Add rows `[m, *shape]`. Raises ValueError on another shape or dtype, and then adds nothing."""
        start = self.length(level)
        self._types[level].check(rows)
        stop = start + len(rows)
        if stop > len(self._rows[level]):
            larger = self._types[level].empty(max(stop, 2 * len(self._rows[level]), _FIRST_ROWS))
            larger[:start] = self._rows[level][:start]
            self._rows[level] = larger
        self._rows[level][start:stop] = rows
        self._lengths[level] = stop

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)` as a read-only view. Raises IndexError outside the level."""
        if not 0 <= start <= stop <= self.length(level):
            raise IndexError(f"rows [{start}, {stop}) of level {level}, which has {self._lengths[level]}")
        view = self._rows[level][start:stop]
        view.flags.writeable = False
        return view

    def flush(self) -> None:
        """Nothing is kept beyond the process."""

    def close(self) -> None:
        """There are no files; the memory goes with the last view."""


@hookimpl
def mccore_tree_backend() -> Extension[TreeBackend]:
    return Extension(build=RamTree, options=RamOptions, summary="in memory; fastest, gone with the process")
