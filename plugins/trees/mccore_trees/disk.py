"""Keep the tree in files: append-only, memory-mapped, checksummed; it survives kill -9, power loss and a full disk.

A directory holds `tree.json` (format, version and the type of each level's rows), `level-<k>.rows` and `level-<k>.sums` per
level, `commits` (how many rows of each level count) and `lock`. `flush` is the commit: after a crash, opening the directory
shows exactly the rows of the last flush that completed, and drops whatever was written later.

One writer holds the lock (`lock.py` has what happens on a file system without locks); any number of readers need neither it
nor permission to write, and see what was committed when they opened or refreshed. Rows never change and files only grow, so
the two don't wait for each other.

What is checked when: opening checks the header, the commit record, the size of every file and the last block of every level,
which is all that a crash can have touched. `damage` checks every block, at the speed of the disk.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import Field

from mccore.api import Extension, LevelSpec, Options, TreeBackend, TreeDamage, TreeSpec
from mccore.errors import RunError
from mccore.hookspecs import hookimpl
from mccore_trees.commits import MAX_LEVELS, CommitFile
from mccore_trees.files import SyncError, failure, folder_mode, open_file, sync_all, sync_directory
from mccore_trees.files import damage as damage_error
from mccore_trees.header import check_levels, read_header, write_header
from mccore_trees.level_file import LevelFile, level_paths
from mccore_trees.lock import release_lock, take_lock
from mccore_trees.rows import RowType

_HEADER, _COMMITS, _LOCK = "tree.json", "commits", "lock"


class DiskOptions(Options):
    """How safe a flush is."""

    fsync: bool = Field(
        True,
        description="a flush waits for the disk and survives a loss of power; off survives only the end of the process",
    )


class DiskTree:
    """One directory. Reads of more than a few rows are views of the mapped files, without a copy.

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
        self._read_only, self._salvage = spec.read_only, spec.salvage
        self._failed_sync = False
        self._closed = False
        self._levels: list[LevelFile] = []
        with ExitStack() as opened:  # a failure on the way closes what was opened before it
            try:
                self._open(spec.levels, opened)
            except OSError as error:
                raise failure("open the tree in", self._directory, error) from error
            self._files = opened.pop_all()

    def _open(self, levels: tuple[LevelSpec, ...], opened: ExitStack) -> None:
        header = self._directory / _HEADER
        if self._read_only or self._salvage:
            if not header.exists():
                raise RunError(f"there is no tree in {self._directory}", hint="check the path")
        else:
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            self._directory.mkdir(mode=folder_mode(self._directory.parent), exist_ok=True)
        if not self._read_only:
            self._lock = opened.enter_context(open_file(self._directory / _LOCK))
            take_lock(self._lock, self._directory)
        if not header.exists():
            self._create(header, [RowType(level, each) for level, each in enumerate(levels)])
        stored = read_header(header)
        if not levels and (self._read_only or self._salvage):
            levels = stored
        types = [RowType(level, each) for level, each in enumerate(levels)]
        check_levels(self._directory, stored, types)
        self.levels = levels
        self._commits = CommitFile(self._directory / _COMMITS, read_only=self._read_only)
        opened.callback(self._commits.close)
        commit = self._commits.commit
        if len(commit.levels) != len(types):
            raise RunError(f"{self._directory}: the commit record and {_HEADER} differ in the number of levels")
        for rows, committed in zip(types, commit.levels, strict=True):
            self._levels.append(
                LevelFile(self._directory, rows, committed, read_only=self._read_only, salvage=self._salvage)
            )
            opened.callback(self._levels[-1].close)
        if not self._commits.agree and not self._read_only and not self._salvage:
            self._commit()  # a process died between the two copies, and the disk may have neither the rows nor the record

    def length(self, level: int) -> int:
        """Rows of a level. Raises IndexError for a level outside the spec."""
        return self._level(level).length

    def append(self, level: int, rows: NDArray[Any]) -> None:
        """Add rows `[m, *shape]`: all, or none and an error. Raises ValueError on another shape or dtype, RunError."""
        file = self._level(level)
        if self._read_only or self._salvage:
            use = "reading" if self._read_only else "repair"
            raise RunError(f"the tree in {self._directory} was opened for {use} and takes no rows")
        file.append(rows)

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)`, read-only. Raises IndexError outside the level, RunError."""
        return self._level(level).read(start, stop)

    def flush(self) -> None:
        """Commit every row appended so far. Raises RunError; then the commit before counts, or this one: never a part."""
        self._check_open()
        if self._read_only or self._salvage:
            return
        if self._failed_sync:
            raise RunError(
                f"the disk under {self._directory} failed to take an earlier flush; which rows it has can't be known",
                hint="open the tree again: it shows the last flush that completed",
            )
        if tuple(level.length for level in self._levels) == self._commits.commit.rows:
            return
        try:
            self._commit()
        except OSError as error:
            self._failed_sync = isinstance(error, SyncError)  # after any other failure a second try is sound
            raise failure("commit", self._directory, error) from error

    def refresh(self) -> bool:
        """Show what the writer has committed since, and say whether that is more. Raises RunError.

        For a tree opened with `read_only`; any other shows everything at once.
        """
        self._check_open()
        if not self._read_only:
            return False
        before = self._commits.commit
        try:
            self._commits.reread()
        except OSError as error:
            raise failure("read", self._directory, error) from error
        if self._commits.commit == before:
            return False
        try:
            for level, committed in zip(self._levels, self._commits.commit.levels, strict=True):
                level.refresh(committed)
        except RunError:
            self._commits.commit = before
            for level, committed in zip(self._levels, before.levels, strict=True):
                level.show(committed)
            raise
        return self._commits.commit.rows != before.rows

    def damage(self) -> tuple[TreeDamage, ...]:
        """Check every block of every level. Raises RunError where a file can't be read at all."""
        self._check_open()
        return tuple(found for level in self._levels for found in level.damage())

    def verify(self) -> None:
        """Raise RunError naming the file and the byte where damage begins, if there is any."""
        for found in self.damage():
            raise damage_error(
                found.path, found.first_byte, f"the {found.stop_byte - found.first_byte} bytes from there: {found.what}"
            )

    def restore(self, level: int, start: int, rows: NDArray[Any]) -> bool:
        """Put rows in place of `[start, start + len(rows))`; says whether they match the checksums of those that were appended.

        Raises ValueError, IndexError, RunError.
        """
        file = self._level(level)
        self._check_salvage()
        try:
            exact = file.restore(start, rows)
            levels = tuple(each.commit for each in self._levels)
            if levels != self._commits.commit.levels:
                self._commits.write(levels, durable=True)
        except OSError as error:
            raise failure("repair", self._directory, error) from error
        return exact

    def truncate(self, lengths: tuple[int, ...]) -> Path:
        """Cut every level to its length. The files as they were go into a folder in the directory, which is returned.

        Readers keep the files that they have open. Raises ValueError for lengths that don't fit, RunError.
        """
        self._check_open()
        self._check_salvage()
        if len(lengths) != len(self._levels) or any(
            not 0 <= wanted <= level.length for wanted, level in zip(lengths, self._levels, strict=True)
        ):
            raise ValueError(f"{lengths} don't fit levels of {[level.length for level in self._levels]} rows")
        try:
            kept = self._keep()
            names = [path.name for level in range(len(lengths)) for path in level_paths(self._directory, level)]
            fresh = kept / "new"
            fresh.mkdir()
            levels = tuple(
                level.write_prefix(length, *level_paths(fresh, at))
                for at, (level, length) in enumerate(zip(self._levels, lengths, strict=True))
            )
            for name in names:  # a crash in between leaves files that are too short for the commit: repair starts again
                (fresh / name).replace(self._directory / name)
            fresh.rmdir()
            sync_directory(self._directory)
            self._commits.write(levels, durable=True)
            for level in self._levels:
                level.close()
            types = [RowType(at, each) for at, each in enumerate(self.levels)]
            self._levels = [
                LevelFile(self._directory, rows, committed, salvage=True)
                for rows, committed in zip(types, levels, strict=True)
            ]
            for level in self._levels:
                self._files.callback(level.close)
        except OSError as error:
            raise failure("repair", self._directory, error) from error
        return kept

    def close(self) -> None:
        """Flush and let go of the files and the lock; harmless when called twice. Rows read before stay readable."""
        if self._closed:
            return
        try:
            if not self._failed_sync:  # that was an error already when it happened
                self.flush()
        finally:
            self._closed = True
            if not self._read_only:
                release_lock(self._lock)
            self._files.close()

    def _commit(self) -> None:
        files = [file for level in self._levels for file in level.write_sums()]
        if self._fsync:
            sync_all(files)
            for level in self._levels:
                level.mark_synced()
        self._commits.write(tuple(level.commit for level in self._levels), durable=self._fsync)

    def _level(self, level: int) -> LevelFile:
        self._check_open()
        if not 0 <= level < len(self._levels):
            raise IndexError(f"level {level} of a tree of {len(self._levels)} levels")
        return self._levels[level]

    def _check_open(self) -> None:
        if self._closed:
            raise RunError(f"the tree in {self._directory} is closed")

    def _check_salvage(self) -> None:
        if self._read_only or not self._salvage:
            raise RunError(f"the tree in {self._directory} isn't open for repair")

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
        CommitFile.create(self._directory / _COMMITS, len(types))
        write_header(header, types)
        sync_directory(self._directory.parent)

    def _keep(self) -> Path:
        """A folder with the tree as it is. The rows are links: what is written from now on goes to other files."""
        number = 1
        while (kept := self._directory / f"before-repair-{number}").exists():
            number += 1
        kept.mkdir()
        for level in range(len(self._levels)):
            for path in level_paths(self._directory, level):
                try:
                    os.link(path, kept / path.name)
                except OSError:  # no links on this file system, or no such file
                    if path.exists():
                        shutil.copy2(path, kept / path.name)
        for name in (_COMMITS, _HEADER):  # the header last: then it is a tree
            shutil.copy2(self._directory / name, kept / name)
        for directory in (kept, self._directory):
            sync_directory(directory)
        return kept


@hookimpl
def mccore_tree_backend() -> Extension[TreeBackend]:
    return Extension(
        build=DiskTree, options=DiskOptions, summary="in files; survives kill -9, power loss and a full disk"
    )
