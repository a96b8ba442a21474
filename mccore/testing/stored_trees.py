"""The contract of `mccore.api.TreeBackend` for trees that lie in a directory, and rows to fill trees with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from mccore.api import Extension, LevelSpec, SharedTree, TreeBackend, TreeSpec
from mccore.errors import MccoreError
from mccore.testing.extensions import ExtensionSuite

# Token ids, gists of two widths and types, and a matrix per row (as keys and values of a node would be).
LEVELS = (
    LevelSpec((), "uint32"),
    LevelSpec((24,), "float32"),
    LevelSpec((8,), "float16"),
    LevelSpec((2, 3), "int64"),
)


def example_rows(spec: LevelSpec, start: int, stop: int) -> NDArray[Any]:
    """Rows `[start, stop)` of an endless table of distinct rows, `[stop - start, *shape]` in the level's dtype."""
    width = int(np.prod(spec.shape, dtype=np.int64))
    # Multiplying by an odd number permutes 32-bit integers, so neighbouring rows share nothing but their origin.
    cell = np.arange(start * width, stop * width, dtype=np.uint64)
    noise = (cell * np.uint64(2654435761) + np.uint64(12345)) & np.uint64(0xFFFFFFFF)
    dtype = np.dtype(spec.dtype)
    values = (
        (noise & np.uint64(0x3FF)) if dtype.kind == "f" else noise & np.uint64(2 ** min(31, 8 * dtype.itemsize - 1) - 1)
    )
    return values.astype(dtype).reshape(stop - start, *spec.shape)


def fill(tree: TreeBackend, levels: tuple[LevelSpec, ...], start: int, stop: int) -> None:
    """Append rows `[start, stop)` of the example table to every level."""
    for level, spec in enumerate(levels):
        tree.append(level, example_rows(spec, start, stop))


def check_rows(tree: TreeBackend, levels: tuple[LevelSpec, ...], length: int) -> None:
    """Assert that every level holds exactly the first `length` rows of the example table."""
    for level, spec in enumerate(levels):
        assert tree.length(level) == length, f"level {level}"
        rows = tree.read(level, 0, length)
        assert isinstance(rows, np.ndarray)
        assert rows.shape == (length, *spec.shape), f"level {level}"
        assert rows.dtype == np.dtype(spec.dtype), f"level {level}"
        np.testing.assert_array_equal(rows, example_rows(spec, 0, length), err_msg=f"level {level}")


class StoredTreeSuite(ExtensionSuite):
    """The part of `TreeBackendSuite` about directories: rows that outlive their process, readers beside a writer."""

    persistent: ClassVar[bool] = False
    """Whether the backend keeps its rows in `TreeSpec.directory`; one that doesn't must leave the directory alone."""

    shared: ClassVar[bool] = False
    """Whether it can be opened with `TreeSpec.read_only` beside a writer, as a `mccore.api.SharedTree`."""

    def extension(self) -> Extension[TreeBackend]:
        """What your `mccore_tree_backend` hook returns. Override this."""
        backend: Extension[TreeBackend] = super().extension()
        return backend

    def open(self, directory: Path, levels: tuple[LevelSpec, ...] = LEVELS) -> TreeBackend:
        """A backend with the suite's options: in `directory` (which may not exist yet), or in memory when not persistent."""
        spec = TreeSpec(levels, directory if self.persistent else None)
        return self.extension().build(self.options(), spec)

    def open_reader(self, directory: Path, levels: tuple[LevelSpec, ...] = LEVELS) -> SharedTree:
        """The tree in a directory, to be read only."""
        tree = self.extension().build(self.options(), TreeSpec(levels, directory, read_only=True))
        assert isinstance(tree, SharedTree), "a backend that can be shared has `refresh` and `levels`"
        return tree

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "tree"

    # --- with a directory ---------------------------------------------------------------------------------------------

    def test_memory_only_leaves_the_directory_alone(self, directory: Path) -> None:
        if self.persistent:
            pytest.skip("the backend keeps its rows in the directory")
        directory.mkdir()
        tree = self.extension().build(self.options(), TreeSpec(LEVELS, directory))
        fill(tree, LEVELS, 0, 100)
        tree.flush()
        tree.close()
        left = [path.name for path in directory.iterdir()]
        assert not left, f"wrote {left}: set `persistent = True` in the test class when these are the rows"

    def test_reopening_shows_every_row(self, directory: Path) -> None:
        self._needs_persistence()
        for length in (0, 100, 101, 400):  # each turn reopens what the last one closed
            tree = self.open(directory)
            before = tree.length(0)
            check_rows(tree, LEVELS, before)
            fill(tree, LEVELS, before, length)
            tree.close()
            again = self.open(directory)
            check_rows(again, LEVELS, length)
            again.close()

    def test_an_existing_empty_directory_is_an_empty_tree(self, directory: Path) -> None:
        self._needs_persistence()
        directory.mkdir()
        tree = self.open(directory)
        assert tree.length(0) == 0
        fill(tree, LEVELS, 0, 10)
        tree.close()
        again = self.open(directory)
        check_rows(again, LEVELS, 10)
        again.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="ends a forked process")
    def test_flushed_rows_survive_the_end_of_the_process(self, directory: Path) -> None:
        self._needs_persistence()
        child = os.fork()
        if child == 0:  # no exception may leave this branch, nor any exit handler run
            code = 1
            try:
                tree = self.open(directory)
                fill(tree, LEVELS, 0, 100)
                tree.flush()
                fill(tree, LEVELS, 100, 130)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "appending and flushing failed"
        tree = self.open(directory)
        length = tree.length(0)
        assert length >= 100, "flushed rows are gone"
        check_rows(tree, LEVELS, length)
        fill(tree, LEVELS, length, 200)
        check_rows(tree, LEVELS, 200)
        tree.close()

    @pytest.mark.parametrize(
        "levels",
        [
            LEVELS[:-1],
            (*LEVELS, LEVELS[0]),
            (LevelSpec((), "int32"), *LEVELS[1:]),
            (LEVELS[0], LEVELS[2], LEVELS[1], LEVELS[3]),
        ],
        ids=["fewer levels", "more levels", "another dtype", "another order"],
    )
    def test_reopening_with_another_spec_is_refused(self, directory: Path, levels: tuple[LevelSpec, ...]) -> None:
        self._needs_persistence()
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 48)
        tree.close()
        with pytest.raises((MccoreError, ValueError)):
            self.open(directory, levels).close()
        again = self.open(directory)
        check_rows(again, LEVELS, 48)
        again.close()

    # --- beside a writer ----------------------------------------------------------------------------------------------

    def test_readers_show_what_was_flushed(self, directory: Path) -> None:
        self._needs_sharing()
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 100)
        tree.flush()
        fill(tree, LEVELS, 100, 130)
        one = self.open_reader(directory)
        check_rows(one, LEVELS, 100)
        assert not one.refresh()
        early = one.read(0, 0, 100)
        tree.flush()
        two = self.open_reader(directory)
        check_rows(one, LEVELS, 100)
        check_rows(two, LEVELS, 130)
        assert one.refresh()
        check_rows(one, LEVELS, 130)
        fill(tree, LEVELS, 130, 140)
        tree.close()
        check_rows(two, LEVELS, 130)
        two.close()
        assert one.refresh()
        check_rows(one, LEVELS, 140)
        one.close()
        np.testing.assert_array_equal(early, example_rows(LEVELS[0], 0, 100))

    def test_a_reader_takes_no_rows_and_keeps_no_writer_out(self, directory: Path) -> None:
        self._needs_sharing()
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 10)
        tree.close()
        reader = self.open_reader(directory)
        with pytest.raises(MccoreError):
            fill(reader, LEVELS, 10, 20)
        check_rows(reader, LEVELS, 10)
        again = self.open(directory)
        fill(again, LEVELS, 10, 20)
        again.close()
        reader.flush()
        reader.close()
        last = self.open_reader(directory, ())  # no levels are those that are stored
        check_rows(last, LEVELS, 20)
        assert [(level.shape, np.dtype(level.dtype)) for level in last.levels] == [
            (level.shape, np.dtype(level.dtype)) for level in LEVELS
        ]
        last.close()

    def test_reading_where_there_is_no_tree_is_an_error(self, directory: Path) -> None:
        self._needs_sharing()
        with pytest.raises(MccoreError):
            self.open_reader(directory)
        assert not directory.exists()

    def _needs_sharing(self) -> None:
        if not self.shared:
            pytest.skip("the backend can't be opened read-only")

    def _needs_persistence(self) -> None:
        if not self.persistent:
            pytest.skip("the backend keeps its rows in memory")
