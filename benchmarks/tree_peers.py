"""The disk tree against the disk itself, LMDB and SQLite, all keeping the same history with the same promises.

    uv run --with lmdb python benchmarks/tree_peers.py [--tokens 2000000] [--width 128] [--batch 32768] [--repeats 5]
    uv run python benchmarks/tree_peers.py --large 100000000 --width 8     # size, time to open and memory of one large tree

The history: token ids (4 bytes), a gist per 32 tokens and one per 1,024, float32 of `--width`. It is appended in batches, and
after each batch all of it is durable (fdatasync, LMDB's default sync, SQLite's WAL with synchronous=FULL). The disk itself is
one file that gets the same bytes, with one fdatasync per batch. LMDB and SQLite store one value per block of 32 tokens and
one per gist, which is what a session reads. Random reads are gists of one level and blocks of tokens; a scan reads all gists
of a level in order. Reads come from the page cache. Contenders alternate within each round; a line gives medians, and the
ratio of speeds to the tree's, lowest and highest round beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from mccore_trees.disk import DiskOptions, DiskTree

from mccore.api import LevelSpec, TreeSpec

K = 32
History = list[np.ndarray]


class Contender(Protocol):
    name: str

    def append(self, batch: History) -> None: ...
    def gist(self, index: int) -> np.ndarray: ...
    def block(self, index: int) -> np.ndarray: ...
    def scan(self) -> float: ...
    def close(self) -> None: ...


class Tree:
    name = "disk tree"

    def __init__(self, directory: Path, width: int) -> None:
        gists = LevelSpec((width,), "float32")
        self.tree = DiskTree(DiskOptions(), TreeSpec((LevelSpec((), "uint32"), gists, gists), directory / "tree"))

    def append(self, batch: History) -> None:
        for level, rows in enumerate(batch):
            self.tree.append(level, rows)
        self.tree.flush()

    def gist(self, index: int) -> np.ndarray:
        return self.tree.read(1, index, index + 1)

    def block(self, index: int) -> np.ndarray:
        return self.tree.read(0, index * K, (index + 1) * K)

    def scan(self) -> float:
        step, total = 8192, 0.0
        for start in range(0, self.tree.length(1), step):
            total += float(self.tree.read(1, start, min(start + step, self.tree.length(1))).sum())
        return total

    def close(self) -> None:
        self.tree.close()


class Plain:
    """One file for appending; for reading, maps of files with a level each."""

    name = "the disk itself"

    def __init__(self, directory: Path, width: int) -> None:
        self.directory, self.width = directory, width
        self.file = open(directory / "plain", "wb", buffering=0)  # noqa: SIM115
        self.levels: list[list[np.ndarray]] = [[], [], []]
        self.maps: list[np.ndarray] = []

    def append(self, batch: History) -> None:
        for rows in batch:
            self.file.write(rows.data)
        os.fdatasync(self.file.fileno())

    def map(self, history: History) -> None:
        for level, rows in enumerate(history):
            rows.tofile(self.directory / f"plain-{level}")
            there = np.memmap(self.directory / f"plain-{level}", dtype=rows.dtype, mode="r")
            self.maps.append(np.asarray(there).reshape(rows.shape))

    def gist(self, index: int) -> np.ndarray:
        return self.maps[1][index : index + 1]

    def block(self, index: int) -> np.ndarray:
        return self.maps[0][index * K : (index + 1) * K]

    def scan(self) -> float:
        return sum(float(self.maps[1][at : at + 8192].sum()) for at in range(0, len(self.maps[1]), 8192))

    def close(self) -> None:
        self.file.close()


class Lmdb:
    name = "LMDB"

    def __init__(self, directory: Path, width: int) -> None:
        import lmdb  # type: ignore[import-not-found]

        self.store = lmdb.open(str(directory / "lmdb"), map_size=1 << 36, max_dbs=3)
        self.levels = [self.store.open_db(str(level).encode(), integerkey=True) for level in range(3)]
        self.next = [0, 0, 0]

    def append(self, batch: History) -> None:
        with self.store.begin(write=True) as transaction:
            for level, rows in enumerate(batch):
                values = rows.reshape(-1, K) if level == 0 else rows
                at = self.next[level]
                pairs = [((at + i).to_bytes(8, "little"), values[i].tobytes()) for i in range(len(values))]
                with transaction.cursor(self.levels[level]) as cursor:
                    cursor.putmulti(pairs, append=True)
                self.next[level] += len(values)

    def _get(self, level: int, index: int, dtype: Any) -> np.ndarray:
        with self.store.begin(db=self.levels[level], buffers=True) as transaction:
            return np.frombuffer(transaction.get(index.to_bytes(8, "little")), dtype=dtype).copy()

    def gist(self, index: int) -> np.ndarray:
        return self._get(1, index, np.float32)

    def block(self, index: int) -> np.ndarray:
        return self._get(0, index, np.uint32)

    def scan(self) -> float:
        total = 0.0
        with self.store.begin(db=self.levels[1], buffers=True) as transaction:
            values, size = [], 0
            for value in transaction.cursor().iternext(keys=False, values=True):
                values.append(value)
                size += 1
                if size == 8192:
                    total += float(np.frombuffer(b"".join(values), dtype=np.float32).sum())
                    values, size = [], 0
            return total + float(np.frombuffer(b"".join(values), dtype=np.float32).sum())

    def close(self) -> None:
        self.store.close()


class Sqlite:
    name = "SQLite"

    def __init__(self, directory: Path, width: int) -> None:
        self.store = sqlite3.connect(directory / "sqlite", isolation_level=None)
        self.store.execute("pragma journal_mode=wal")
        self.store.execute("pragma synchronous=full")
        for level in range(3):
            self.store.execute(f"create table level{level} (id integer primary key, data blob)")
        self.next = [0, 0, 0]

    def append(self, batch: History) -> None:
        self.store.execute("begin")
        for level, rows in enumerate(batch):
            values = rows.reshape(-1, K) if level == 0 else rows
            at = self.next[level]
            self.store.executemany(
                f"insert into level{level} values (?, ?)", ((at + i, value.data) for i, value in enumerate(values))
            )
            self.next[level] += len(values)
        self.store.execute("commit")

    def gist(self, index: int) -> np.ndarray:
        found = self.store.execute("select data from level1 where id = ?", (index,)).fetchone()
        return np.frombuffer(found[0], dtype=np.float32)

    def block(self, index: int) -> np.ndarray:
        found = self.store.execute("select data from level0 where id = ?", (index,)).fetchone()
        return np.frombuffer(found[0], dtype=np.uint32)

    def scan(self) -> float:
        total = 0.0
        found = self.store.execute("select data from level1 order by id")
        while rows := found.fetchmany(8192):
            total += float(np.frombuffer(b"".join(row[0] for row in rows), dtype=np.float32).sum())
        return total

    def close(self) -> None:
        self.store.close()


def example(tokens: int, width: int) -> History:
    chance = np.random.default_rng(0)
    ids = chance.integers(0, 50_000, tokens, dtype=np.uint32)
    return [ids, *(chance.standard_normal((tokens // K**level, width), dtype=np.float32) for level in (1, 2))]


def batches(history: History, batch: int) -> list[History]:
    return [
        [rows[at // K**level : (at + batch) // K**level] for level, rows in enumerate(history)]
        for at in range(0, len(history[0]), batch)
    ]


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    tokens = arguments.tokens // arguments.batch * arguments.batch
    history = example(tokens, arguments.width)
    size = sum(rows.nbytes for rows in history)
    pieces = batches(history, arguments.batch)
    chance = np.random.default_rng(1)
    nodes = chance.integers(0, tokens // K, 20_000).tolist()
    makers: list[Any] = [Tree, Plain, *([Lmdb] if lmdb_there() else []), Sqlite]
    seconds: dict[str, dict[str, list[float]]] = {}
    bytes_stored: dict[str, int] = {}
    for turn in range(arguments.repeats):
        place = directory / str(turn)
        place.mkdir()
        contenders = [make(place, arguments.width) for make in makers]
        for each in contenders:
            began = time.perf_counter()
            for piece in pieces:
                each.append(piece)
            took(seconds, "append", each.name, began)
        for each in contenders:
            if isinstance(each, Plain):
                each.map(history)
        expected = float(sum(history[1][at : at + 8192].sum() for at in range(0, len(history[1]), 8192)))
        for each in contenders:
            assert (
                abs(each.scan() - expected) <= 1e-3 * history[1].size ** 0.5
            )  # all pages are mapped before the clock runs
            assert (each.gist(nodes[0]).ravel() == history[1][nodes[0]]).all()
            assert (each.block(nodes[0]).ravel() == history[0][nodes[0] * K : (nodes[0] + 1) * K]).all()
        for each in contenders:
            began = time.perf_counter()
            each.scan()
            took(seconds, "scan", each.name, began)
        for each in contenders:
            began = time.perf_counter()
            for node in nodes:
                each.gist(node).sum()
            took(seconds, "random gists", each.name, began)
        for each in contenders:
            began = time.perf_counter()
            for node in nodes:
                each.block(node).sum()
            took(seconds, "random blocks", each.name, began)
        for each in contenders:
            each.close()
        for name, file in (("disk tree", "tree"), ("LMDB", "lmdb"), ("SQLite", "sqlite")):
            bytes_stored[name] = stored(place, file)
        shutil.rmtree(place)
    print(f"{tokens:,} tokens, width {arguments.width}, {size / 1e6:.0f} MB, batches of {arguments.batch:,} tokens")
    amounts = {
        "append": (size / 1e6, "MB/s"),
        "scan": (history[1].nbytes / 1e6, "MB/s"),
        "random gists": (len(nodes) / 1e3, "k/s"),
        "random blocks": (len(nodes) / 1e3, "k/s"),
    }
    for work, (amount, unit) in amounts.items():
        ours = seconds[work]["disk tree"]
        for name, theirs in seconds[work].items():
            ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
            print(
                f"{work:<14} {name:<16} {amount / median(theirs):>9.1f} {unit:<5}  tree / this {median(ratios):>6.2f}  "
                f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
            )
    for name, there in bytes_stored.items():
        if there:
            print(f"bytes per token  {name:<16} {there / tokens:.2f} ({there / size:.3f} of the rows)")


def stored(place: Path, file: str) -> int:
    """Bytes of files whose path begins with a name."""
    return sum(
        path.stat().st_blocks * 512
        for found in place.glob(f"{file}*")
        for path in (found.rglob("*") if found.is_dir() else [found])
        if path.is_file()
    )


def took(seconds: dict[str, dict[str, list[float]]], work: str, name: str, began: float) -> None:
    seconds.setdefault(work, {}).setdefault(name, []).append(time.perf_counter() - began)


def lmdb_there() -> bool:
    try:
        import lmdb  # noqa: F401
    except ImportError:
        print("LMDB isn't installed and stays out: `uv run --with lmdb`")
        return False
    return True


def large(directory: Path, tokens: int, width: int) -> None:
    """Build one large tree, open it again in a process of its own, and say what that took."""
    piece = 1 << 20
    history = example(piece, width)
    began = time.perf_counter()
    tree = Tree(directory, width)
    for start in range(0, tokens, piece):
        count = min(piece, tokens - start)
        tree.append([rows[: count // K**level] for level, rows in enumerate(history)])
    tree.close()
    seconds = time.perf_counter() - began
    size = stored(directory, "tree")
    print(f"{tokens:,} tokens, width {width}: {size / 1e9:.2f} GB, {size / tokens:.2f} bytes per token")
    print(f"written in {seconds:.1f} s ({size / seconds / 1e6:.0f} MB/s, {-(-tokens // piece)} durable flushes)")
    print(f"memory of the process that wrote it: {peak():.0f} MB, of these {anonymous():.0f} MB not from files")
    child = os.fork()
    if child == 0:
        began = time.perf_counter()
        tree = Tree(directory, width)
        opened = time.perf_counter() - began
        at = np.random.default_rng(2).integers(0, tokens // K, 10_000).tolist()
        for node in at:
            tree.gist(node).sum()
            tree.block(node).sum()
        print(f"opened in {opened * 1e3:.1f} ms; after 20,000 random reads {anonymous():.0f} MB not from files")
        began = time.perf_counter()
        assert tree.tree.damage() == ()
        print(
            f"every block checked in {time.perf_counter() - began:.1f} s; then {anonymous():.0f} MB not from files",
            flush=True,
        )
        os._exit(0)
    os.waitpid(child, 0)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def anonymous() -> float:
    """Memory of this process that isn't a mapped file, MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument(
        "--batch", type=int, default=32_768, help="tokens between two durable flushes, a multiple of 1,024"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", type=int, default=0, help="build one tree of so many tokens instead")
    parser.add_argument("--directory", type=Path, help="where to write; the default is the temporary directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        if arguments.large:
            large(Path(directory), arguments.large, arguments.width)
        else:
            measure(Path(directory), arguments)


if __name__ == "__main__":
    main()
