"""Appends and flushes until it is killed, and says which lengths it is about to flush and which it has: DIRECTORY fsync|no."""

import sys
from pathlib import Path

import numpy as np
from mccore_trees.disk import DiskOptions, DiskTree

from mccore.api import LevelSpec, TreeSpec

spec = TreeSpec((LevelSpec((), "uint32"), LevelSpec((16,), "float32")), Path(sys.argv[1]))
tree = DiskTree(DiskOptions(fsync=sys.argv[2] == "fsync"), spec)
step = 0
while True:
    step += 1
    tokens, gists = tree.length(0), tree.length(1)
    tree.append(0, np.arange(tokens, tokens + step * 37 % 2000, dtype=np.uint32))
    tree.append(1, np.arange(gists * 16, (gists + step % 60) * 16, dtype=np.float32).reshape(-1, 16))
    print("flushing", tree.length(0), tree.length(1), flush=True)
    tree.flush()
    print("flushed", tree.length(0), tree.length(1), flush=True)
