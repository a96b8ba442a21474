"""Trees on disk for tests: opened without waiting for the disk, filled with example rows, left as a crash leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mccore_trees.disk import DiskOptions, DiskTree

from mccore.api import LevelSpec, TreeBackend, TreeSpec
from mccore.testing import example_rows

TOKENS, GISTS = LevelSpec((), "uint32"), LevelSpec((16,), "float32")
LEVELS = (TOKENS, GISTS)
UNSYNCED = DiskOptions(fsync=False)


def open_tree(directory: Path, options: DiskOptions = UNSYNCED, levels: tuple[LevelSpec, ...] = LEVELS) -> DiskTree:
    return DiskTree(options, TreeSpec(levels, directory))


def crash(tree: DiskTree) -> None:
    """Let go of the files as the end of the process does: nothing is flushed."""
    tree._closed = True
    tree._files.close()


def grow(tree: TreeBackend, level: int, rows: int) -> None:
    tree.append(level, example_rows(LEVELS[level], tree.length(level), tree.length(level) + rows))


def check(tree: TreeBackend, lengths: tuple[int, ...]) -> None:
    assert tuple(tree.length(level) for level in range(len(lengths))) == lengths
    for level, length in enumerate(lengths):
        np.testing.assert_array_equal(tree.read(level, 0, length), example_rows(LEVELS[level], 0, length))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)
