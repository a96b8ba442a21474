"""Keep the tree in files: append-only, memory-mapped, checksummed; it survives kill -9, power loss and a full disk.

A directory holds `tree.json` (format, version and the type of each level's rows), `level-<k>.rows` and `level-<k>.sums` per
level, `commits` (how many rows of each level count) and `lock`. `flush` is the commit: after a crash, opening the directory
shows exactly the rows of the last flush that completed, and drops whatever was written later.

What is checked when: opening checks the header, the commit record, the size of every file and the last block of every level,
which is all that a crash can have touched. `verify` checks every block, at the speed of the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import Field

from mccore.api import Extension, Options, TreeBackend, TreeSpec
from mccore.errors import RunError
from mccore.hookspecs import hookimpl
from mccore_trees.commits import MAX_LEVELS, Commit, LevelCommit, read_commit, write_commit
from mccore_trees.files import SyncError, failure, open_file, sync_directory
from mccore_trees.level_file import LevelFile, level_paths
from mccore_trees.rows import RowType

FORMAT_VERSION = 1
_FORMAT = "mccore tree"


class DiskOptions(Options):
    """How safe a flush is."""

    fsync: bool = Field(
        True,
        description="a flush waits for the disk and survives a loss of power; off survives only the end of the process",
    )


class DiskTree:
    """One directory, one writer. Reads of more than a few rows are views of the mapped files, without a copy.

    Raises RunError: no directory, another tree's rows in it, a second writer, damage, a full disk.
    """

    def __init__(self, options: DiskOptions, spec: TreeSpec) -> None:
        if spec.directory is None:
            raise RunError("a disk tree needs a directory", hint="choose the `ram` tree for a history in memory only")
        if sys.byteorder != "little":
            raise RunError("a disk tree is stored little-endian, and this machine isn't")
        if len(spec.levels) > MAX_LEVELS:
            raise RunError(f"a disk tree has at most {MAX_LEVELS} levels, not {len(spec.levels)}")
        self._directory = spec.directory
        self._fsync = options.fsync
        self._failed_sync = False
        self._closed = False
        types = [RowType(level, each) for level, each in enumerate(spec.levels)]
        with ExitStack() as opened:  # a failure on the way closes what was opened before it
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._lock = opened.enter_context(open_file(self._directory / "lock"))
                self._take_lock()
                self._commits = opened.enter_context(open_file(self._directory / "commits"))
                header = self._directory / "tree.json"
                if header.exists():
                    _check_header(header, types)
                else:
                    self._create(header, types)
                self._commit = read_commit(self._commits, self._directory / "commits")
            except OSError as error:
                raise failure("open the tree in", self._directory, error) from error
            if len(self._commit.levels) != len(types):
                raise RunError(f"{self._directory}: the commit record and tree.json differ in the number of levels")
            self._levels = []
            for rows, committed in zip(types, self._commit.levels, strict=True):
                self._levels.append(LevelFile(self._directory, rows, committed))
                opened.callback(self._levels[-1].close)
            self._files = opened.pop_all()

    def length(self, level: int) -> int:
        """Rows of a level. Raises IndexError for a level outside the spec."""
        return self._level(level).length

    def append(self, level: int, rows: NDArray[Any]) -> None:
        """Add rows `[m, *shape]`: all, or none and an error. Raises ValueError on another shape or dtype, RunError."""
        self._level(level).append(rows)

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)`, read-only. Raises IndexError outside the level, RunError."""
        return self._level(level).read(start, stop)

    def flush(self) -> None:
        """Commit every row appended so far. Raises RunError; then the commit before still counts."""
        self._check_open()
        if self._failed_sync:
            raise RunError(
                f"the disk under {self._directory} failed to take an earlier flush; which rows it has can't be known",
                hint="open the tree again: it shows the last flush that completed",
            )
        if tuple(level.length for level in self._levels) == tuple(level.rows for level in self._commit.levels):
            return
        try:
            levels = tuple(level.commit(durable=self._fsync) for level in self._levels)
            commit = Commit(self._commit.sequence + 1, levels)
            write_commit(self._commits, commit, durable=self._fsync)
        except OSError as error:
            self._failed_sync = isinstance(error, SyncError)  # after any other failure a second try is sound
            raise failure("commit", self._directory, error) from error
        self._commit = commit

    def verify(self) -> None:
        """Check every block of every level. Raises RunError naming the file and the byte where damage begins."""
        self._check_open()
        for level in self._levels:
            level.verify()

    def close(self) -> None:
        """Flush and let go of the files and the lock; harmless when called twice. Rows read before stay readable."""
        if self._closed:
            return
        try:
            if not self._failed_sync:  # that was an error already when it happened
                self.flush()
        finally:
            self._closed = True
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_UN)
            self._files.close()

    def _level(self, level: int) -> LevelFile:
        self._check_open()
        if not 0 <= level < len(self._levels):
            raise IndexError(f"level {level} of a tree of {len(self._levels)} levels")
        return self._levels[level]

    def _check_open(self) -> None:
        if self._closed:
            raise RunError(f"the tree in {self._directory} is closed")

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"the tree in {self._directory} is open elsewhere, and a tree has one writer",
                hint="close the session or process that has it open; the lock goes with the process",
            ) from None

    def _create(self, header: Path, types: list[RowType]) -> None:
        """Make an empty tree. The header comes last: a directory without one has never held a row."""
        if any(path.stat().st_size for path in self._directory.glob("level-*.rows")):
            raise RunError(
                f"{self._directory} holds rows of a tree, but {header.name} is missing",
                hint="restore the file from a copy, or choose another directory",
            )
        for rows in types:
            for path in level_paths(self._directory, rows.level):
                open_file(path).close()
        write_commit(self._commits, Commit(0, (LevelCommit(0, 0),) * len(types)), durable=True)
        text = json.dumps({"format": _FORMAT, "version": FORMAT_VERSION, "levels": _describe(types)}, indent=2)
        temporary = header.with_suffix(".json.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(header)
        sync_directory(self._directory)
        sync_directory(self._directory.parent)


def _describe(types: list[RowType]) -> list[dict[str, Any]]:
    return [{"shape": list(rows.shape), "dtype": rows.dtype.str} for rows in types]


def _check_header(path: Path, types: list[RowType]) -> None:
    """Raise RunError unless the header is of this format and of a tree with these rows."""
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version, levels = header["version"], header["levels"]
        known = header["format"] == _FORMAT and isinstance(levels, list)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise RunError(f"{path} isn't the header of a tree", hint="restore it from a copy, or choose another directory")
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path} is of format version {version}, and this is version {FORMAT_VERSION}",
            hint="use the version of mccore-trees that wrote it",
        )
    if levels != _describe(types):
        differing = next(
            (at for at, (there, asked) in enumerate(zip(levels, _describe(types), strict=False)) if there != asked),
            min(len(levels), len(types)),
        )
        there = levels[differing] if differing < len(levels) else "no such level"
        asked = _describe(types)[differing] if differing < len(types) else "no such level"
        raise RunError(
            f"the tree in {path.parent} stores other rows than asked for: level {differing} has {there} instead of {asked}",
            hint="the model, its width or its levels changed: use another directory, or the model that wrote it",
        )


@hookimpl
def mccore_tree_backend() -> Extension[TreeBackend]:
    return Extension(
        build=DiskTree, options=DiskOptions, summary="in files; survives kill -9, power loss and a full disk"
    )
