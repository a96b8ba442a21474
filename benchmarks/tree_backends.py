"""How fast the tree backends append and read, against what the machine can do without them.

    python benchmarks/tree_backends.py [--megabytes 256] [--repeats 5] [--directory DIR]

Each round measures a backend and its reference one after the other, on the same bytes in the same pieces, so that a busy
machine slows both; a line gives the median of the rounds, their spread, and the ratio backend / reference. References: for
appending, `write` to a plain file (with fsync where the backend syncs); for reading, `np.memmap` and slices of an array.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path
from statistics import median

import numpy as np
from mccore_trees.disk import DiskOptions, DiskTree
from mccore_trees.ram import RamOptions, RamTree

from mccore.api import LevelSpec, TreeBackend, TreeSpec

WIDTH = 768  # of a gist, float32: 3 KiB a row
GISTS = LevelSpec((WIDTH,), "float32")
MEGABYTE = 1_000_000


class Rounds:
    """Seconds of a measured thing and of its reference, round by round."""

    def __init__(self, name: str, amount: float, unit: str) -> None:
        self.name, self.amount, self.unit = name, amount, unit
        self.ours: list[float] = []
        self.reference: list[float] = []

    def report(self) -> str:
        ratios = sorted(theirs / ours for ours, theirs in zip(self.ours, self.reference, strict=True))
        ours, theirs = self.amount / median(self.ours), self.amount / median(self.reference)
        return (
            f"{self.name:<44} {ours:>10.1f} {theirs:>10.1f} {self.unit:<8} {median(ratios):>6.2f}  "
            f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        )


def seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def append_all(tree: TreeBackend, rows: np.ndarray, piece: int) -> None:
    for start in range(0, len(rows), piece):
        tree.append(0, rows[start : start + piece])
    tree.flush()


def append_each(tree: TreeBackend, row: np.ndarray, times: int) -> None:
    for _ in range(times):
        tree.append(0, row)


def write_all(path: Path, rows: np.ndarray, piece: int, fsync: bool) -> None:
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(rows), piece):
            file.write(rows[start : start + piece].data)
        if fsync:
            os.fsync(file.fileno())


def write_each(file: RawIOBase, row: np.ndarray, times: int) -> None:
    for _ in range(times):
        file.write(row.data)


def copy_into(grown: np.ndarray, rows: np.ndarray, piece: int) -> None:
    for start in range(0, len(rows), piece):
        grown[start : start + piece] = rows[start : start + piece]


def sum_tree(tree: TreeBackend, starts: list[int], rows: int) -> None:
    for start in starts:
        tree.read(0, start, start + rows).sum()


def sum_array(array: np.ndarray, starts: list[int], rows: int) -> None:
    for start in starts:
        array[start : start + rows].sum()


def measure(directory: Path, megabytes: int, repeats: int) -> list[Rounds]:
    rows = np.random.default_rng(0).standard_normal((megabytes * MEGABYTE // (4 * WIDTH), WIDTH), dtype=np.float32)
    amount = rows.nbytes / MEGABYTE
    blocks = (np.random.default_rng(1).integers(0, len(rows) // 32, size=2000) * 32).tolist()
    synced = Rounds("disk append 32 rows, one flush | write+fsync", amount, "MB/s")
    unsynced = Rounds("disk append 32 rows, fsync off | write", amount, "MB/s")
    ram = Rounds("ram append 32 rows | copy into a ready array", amount, "MB/s")
    scan = Rounds("disk sum of all rows | np.memmap", amount, "MB/s")
    gather = Rounds("disk 2000 random blocks of 32 | np.memmap", len(blocks) * 32 * 4 * WIDTH / MEGABYTE, "MB/s")
    from_ram = Rounds("ram 2000 random blocks of 32 | slices", len(blocks) * 32 * 4 * WIDTH / MEGABYTE, "MB/s")
    verify = Rounds("disk verify | read of the file", amount, "MB/s")
    commits = Rounds("disk flush of one token | write+fsync", 1, "flush/s")
    tokens = Rounds("disk append of one token | write", 20_000, "call/s")

    for turn in range(repeats):
        place = directory / str(turn)
        place.mkdir()
        plain = place / "plain"
        for rounds, options in ((unsynced, DiskOptions(fsync=False)), (synced, DiskOptions())):
            tree = DiskTree(options, TreeSpec((GISTS,), place / f"tree-{options.fsync}"))
            rounds.ours.append(seconds(append_all, tree, rows, 32))
            rounds.reference.append(seconds(write_all, plain, rows, 32, options.fsync))
            if not options.fsync:
                tree.close()

        memory, ready = RamTree(RamOptions(), TreeSpec((GISTS,))), np.empty_like(rows)
        ram.ours.append(seconds(append_all, memory, rows, 32))
        ram.reference.append(seconds(copy_into, ready, rows, 32))

        mapped = np.memmap(plain, dtype=np.float32, mode="r").reshape(-1, WIDTH)
        sum_tree(tree, [0], len(rows))  # both maps are in the page tables before the clock runs
        sum_array(mapped, [0], len(rows))
        scan.ours.append(seconds(sum_tree, tree, [0], len(rows)))
        scan.reference.append(seconds(sum_array, mapped, [0], len(rows)))
        gather.ours.append(seconds(sum_tree, tree, blocks, 32))
        gather.reference.append(seconds(sum_array, mapped, blocks, 32))
        from_ram.ours.append(seconds(sum_tree, memory, blocks, 32))
        from_ram.reference.append(seconds(sum_array, ready, blocks, 32))
        verify.ours.append(seconds(tree.verify))
        verify.reference.append(seconds(plain.read_bytes))
        tree.close()

        token = np.zeros(1, dtype=np.uint32)
        small = DiskTree(DiskOptions(), TreeSpec((LevelSpec((), "uint32"),), place / "tokens"))
        with open(place / "plain-tokens", "wb", buffering=0) as file:
            tokens.ours.append(seconds(append_each, small, token, 20_000))
            tokens.reference.append(seconds(write_each, file, token, 20_000))
            flushes, syncs = [], []
            for _ in range(20):
                small.append(0, token)
                flushes.append(seconds(small.flush))
                file.write(token.data)
                syncs.append(seconds(os.fsync, file.fileno()))
            commits.ours.append(median(flushes))
            commits.reference.append(median(syncs))
        small.close()
        shutil.rmtree(place)
    return [synced, unsynced, ram, scan, gather, from_ram, verify, tokens, commits]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to write; the default is the temporary directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        results = measure(Path(directory), arguments.megabytes, arguments.repeats)
    print(f"{'backend | reference':<44} {'backend':>10} {'reference':>10} {'':<8} {'ratio':>6}  spread")
    for rounds in results:
        print(rounds.report())


if __name__ == "__main__":
    main()
