"""Trees that are wrong in one way each, and healthy ones: see test_suites.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mccore.api import Extension, LevelSpec, Options, TreeSpec
from mccore.errors import MccoreError
from mccore.testing import TreeBackendSuite


class ArrayTree:
    """A healthy tree: one array per level, copied whole at each append; with a directory, saved whole at each flush."""

    keeps_files = False

    def __init__(self, options: Options, spec: TreeSpec) -> None:
        self.spec = spec
        self.arrays = [np.empty((0, *level.shape), dtype=level.dtype) for level in spec.levels]
        if self.keeps_files and spec.directory is not None:
            spec.directory.mkdir(parents=True, exist_ok=True)
            self.load(spec.directory)

    def load(self, directory: Path) -> None:
        files = sorted(directory.glob("*.npy"))
        loaded = [np.load(file) for file in files]
        if files and [self.type_of(rows) for rows in loaded] != [self.type_of(rows) for rows in self.arrays]:
            raise ValueError("another tree's rows are in the directory")
        self.arrays = loaded or self.arrays

    def type_of(self, rows: Any) -> LevelSpec:
        return LevelSpec(rows.shape[1:], rows.dtype.name)

    def at(self, level: int) -> Any:
        if not 0 <= level < len(self.arrays):
            raise IndexError(level)
        return self.arrays[level]

    def length(self, level: int) -> int:
        return len(self.at(level))

    def check(self, level: int, rows: Any) -> None:
        there = self.at(level)
        if rows.ndim == 0 or rows.shape[1:] != there.shape[1:] or rows.dtype != there.dtype:
            raise ValueError("other rows than these")

    def append(self, level: int, rows: Any) -> None:
        self.check(level, rows)
        self.arrays[level] = np.concatenate([self.at(level), rows])

    def read(self, level: int, start: int, stop: int) -> Any:
        if not 0 <= start <= stop <= self.length(level):
            raise IndexError((start, stop))
        return self.arrays[level][start:stop].copy()

    def save(self) -> None:
        if self.keeps_files and self.spec.directory is not None:
            for level, rows in enumerate(self.arrays):
                np.save(self.spec.directory / f"{level}.npy", rows)

    def flush(self) -> None:
        self.save()

    def close(self) -> None:
        self.save()


class FileTree(ArrayTree):
    keeps_files = True


class LendingTree(FileTree):
    """A healthy tree that can be opened read-only beside a writer."""

    def __init__(self, options: Options, spec: TreeSpec) -> None:
        if spec.read_only and (spec.directory is None or not (spec.directory / "0.npy").exists()):
            raise MccoreError("no tree there")
        super().__init__(options, spec)

    def load(self, directory: Path) -> None:
        if self.spec.read_only and not self.arrays:
            self.arrays = [np.load(file) for file in sorted(directory.glob("*.npy"))]
        super().load(directory)

    @property
    def levels(self) -> tuple[LevelSpec, ...]:
        return tuple(self.type_of(rows) for rows in self.arrays)

    def append(self, level: int, rows: Any) -> None:
        if self.spec.read_only:
            raise MccoreError("read only")
        super().append(level, rows)

    def save(self) -> None:
        if not self.spec.read_only:
            super().save()

    def refresh(self) -> bool:
        before = self.length(0)
        assert self.spec.directory is not None
        self.load(self.spec.directory)
        return self.length(0) > before


class ZooTree(TreeBackendSuite):
    tree: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.tree, summary="a tree of the zoo")


class TestHealthyTree(ZooTree):
    tree = ArrayTree


class TestHealthyFileTree(ZooTree):
    tree = FileTree
    persistent = True


class TestHealthyLendingTree(ZooTree):
    tree = LendingTree
    persistent = True
    shared = True


class TestForgetful(ZooTree):
    """Keeps only the newest rows."""

    caught_by = "test_any_chunking_equals_appending_at_once"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            super().append(level, rows)
            self.arrays[level][: -len(rows) or None] = 0


class TestShortMemory(ZooTree):
    """Stops at a hundred thousand rows."""

    caught_by = "test_holds_a_large_history"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            super().append(level, rows)
            self.arrays[level] = self.arrays[level][:100_000]


class TestOffByOneRead(ZooTree):
    """Reads one row too early, except from the start."""

    caught_by = "test_any_range_can_be_read"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            rows = super().read(level, start, stop)
            return rows if start == 0 else super().read(level, start - 1, stop - 1)


class TestAliasing(ZooTree):
    """Hands out its own storage to write to."""

    caught_by = "test_what_was_read_cannot_change_the_tree"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            super().read(level, start, stop)
            return self.arrays[level][start:stop]


class TestBorrowing(ZooTree):
    """Keeps the caller's array instead of a copy."""

    caught_by = "test_keeps_its_own_copy"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            self.check(level, rows)
            self.arrays[level] = rows if not self.length(level) else np.concatenate([self.at(level), rows])


class TestRecycling(ZooTree):
    """Clears the old storage when it moves to a larger one."""

    caught_by = "test_what_was_read_stays_as_it_was"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            old = self.at(level)
            super().append(level, rows)
            old[...] = 0

        def read(self, level: int, start: int, stop: int) -> Any:
            super().read(level, start, stop)
            view = self.arrays[level][start:stop]
            view.flags.writeable = False
            return view


class TestObliging(ZooTree):
    """Converts rows of another dtype."""

    caught_by = "test_wrong_rows_are_refused_and_add_nothing"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            if rows.ndim and rows.shape[1:] == self.at(level).shape[1:]:
                rows = rows.astype(self.at(level).dtype)
            super().append(level, rows)


class TestHasty(ZooTree):
    """Makes room before it looks at the rows."""

    caught_by = "test_wrong_rows_are_refused_and_add_nothing"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            there = self.at(level)
            self.arrays[level] = np.concatenate([there, np.zeros((1, *there.shape[1:]), dtype=there.dtype)])
            self.check(level, rows)
            self.arrays[level] = np.concatenate([there, rows])


class TestSlicing(ZooTree):
    """Reads with the leniency of a Python slice."""

    caught_by = "test_reading_outside_the_level_is_an_error"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            return self.at(level)[start:stop].copy()


class TestCountingFromTheEnd(ZooTree):
    """Takes -1 for the last level."""

    caught_by = "test_a_level_that_does_not_exist_is_an_error"

    class tree(ArrayTree):
        def at(self, level: int) -> Any:
            return self.arrays[level]


class TestOneForAll(ZooTree):
    """Counts every level's rows together."""

    caught_by = "test_levels_are_independent"

    class tree(ArrayTree):
        def length(self, level: int) -> int:
            return max(len(rows) for rows in self.arrays)


class TestGlobal(ZooTree):
    """Shares its storage with every other tree."""

    caught_by = "test_trees_are_independent"

    class tree(ArrayTree):
        shared: ClassVar[dict[int, Any]] = {}

        def __init__(self, options: Options, spec: TreeSpec) -> None:
            super().__init__(options, spec)
            self.arrays = self.shared.setdefault(len(self.arrays), self.arrays)


class TestContiguousOnly(ZooTree):
    """Copies the memory of an array without regard to its strides."""

    caught_by = "test_takes_rows_of_any_memory_layout"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            if rows.base is not None and not rows.flags.c_contiguous:
                rows = np.ascontiguousarray(rows.base.reshape(-1)[: rows.size].reshape(rows.shape))
            super().append(level, rows)


class TestClosesOnce(ZooTree):
    """Fails at the second close."""

    caught_by = "test_closing_twice_is_harmless"

    class tree(ArrayTree):
        def close(self) -> None:
            del self.spec


class TestLitterer(ZooTree):
    """Writes files and doesn't say so."""

    caught_by = "test_memory_only_leaves_the_directory_alone"
    tree = FileTree


class TestFlushless(ZooTree):
    """Saves only when it is closed."""

    caught_by = "test_flushed_rows_survive_the_end_of_the_process"
    persistent = True

    class tree(FileTree):
        def flush(self) -> None:
            pass


class TestCloseless(ZooTree):
    """Saves only when it is flushed."""

    caught_by = "test_reopening_shows_every_row"
    persistent = True

    class tree(FileTree):
        def close(self) -> None:
            pass


class TestTrusting(ZooTree):
    """Takes whatever rows are in the directory for its own."""

    caught_by = "test_reopening_with_another_spec_is_refused"
    persistent = True

    class tree(FileTree):
        def load(self, directory: Path) -> None:
            self.arrays = [np.load(file) for file in sorted(directory.glob("*.npy"))] or self.arrays


class TestNeedsItsDirectory(ZooTree):
    """Expects somebody else to make its directory."""

    caught_by = "test_reopening_shows_every_row"
    persistent = True

    class tree(FileTree):
        def __init__(self, options: Options, spec: TreeSpec) -> None:
            assert spec.directory is not None
            (spec.directory / "mark").touch()
            super().__init__(options, spec)


class TestStale(ZooTree):
    """Never looks again."""

    caught_by = "test_readers_show_what_was_flushed"
    persistent = True
    shared = True

    class tree(LendingTree):
        def refresh(self) -> bool:
            return False


class TestGenerous(ZooTree):
    """Takes rows from readers."""

    caught_by = "test_a_reader_takes_no_rows_and_keeps_no_writer_out"
    persistent = True
    shared = True

    class tree(LendingTree):
        def append(self, level: int, rows: Any) -> None:
            FileTree.append(self, level, rows)


class TestMakesWhatItReads(ZooTree):
    """Makes an empty tree for a reader."""

    caught_by = "test_reading_where_there_is_no_tree_is_an_error"
    persistent = True
    shared = True

    class tree(LendingTree):
        def __init__(self, options: Options, spec: TreeSpec) -> None:
            FileTree.__init__(self, options, spec)
