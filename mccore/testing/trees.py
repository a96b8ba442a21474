"""The contract of `mccore.api.TreeBackend` as tests."""

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


class TreeBackendSuite(ExtensionSuite):
    """Subclass it, override `extension`, and set `persistent` when rows outlive the process that appended them."""

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

    def test_is_a_tree_backend(self, directory: Path) -> None:
        tree = self.open(directory)
        assert isinstance(tree, TreeBackend)
        tree.close()

    def test_starts_empty(self, directory: Path) -> None:
        tree = self.open(directory)
        for level, spec in enumerate(LEVELS):
            assert tree.length(level) == 0
            rows = tree.read(level, 0, 0)
            assert rows.shape == (0, *spec.shape)
            assert rows.dtype == np.dtype(spec.dtype)
        tree.close()

    def test_reads_what_was_appended(self, directory: Path) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 100)
        check_rows(tree, LEVELS, 100)
        tree.close()

    @pytest.mark.parametrize("seed", range(4))
    def test_any_chunking_equals_appending_at_once(self, directory: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        total = 700
        tree = self.open(directory)
        length = 0
        while length < total:
            step = min(int(rng.choice([0, 1, 2, 31, 32, 33, 200])), total - length)
            fill(tree, LEVELS, length, length + step)
            length += step
            if rng.random() < 0.3:
                tree.flush()
            assert tree.length(0) == length
        check_rows(tree, LEVELS, total)
        tree.close()

    def test_any_range_can_be_read(self, directory: Path) -> None:
        rng = np.random.default_rng(0)
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 300)
        for _ in range(50):
            start, stop = sorted(rng.integers(0, 301, size=2).tolist())
            for level, spec in enumerate(LEVELS):
                rows = tree.read(level, start, stop)
                assert rows.dtype == np.dtype(spec.dtype)
                np.testing.assert_array_equal(rows, example_rows(spec, start, stop))
        tree.close()

    @pytest.mark.parametrize(("start", "stop"), [(-1, 3), (-3, -1), (0, 11), (11, 11), (12, 12), (4, 3), (10, 9)])
    def test_reading_outside_the_level_is_an_error(self, directory: Path, start: int, stop: int) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 10)
        with pytest.raises(IndexError):
            tree.read(0, start, stop)
        check_rows(tree, LEVELS, 10)
        tree.close()

    @pytest.mark.parametrize("level", [-1, len(LEVELS)])
    def test_a_level_that_does_not_exist_is_an_error(self, directory: Path, level: int) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 10)
        with pytest.raises(IndexError):
            tree.length(level)
        with pytest.raises(IndexError):
            tree.read(level, 0, 0)
        with pytest.raises(IndexError):
            tree.append(level, example_rows(LEVELS[level % len(LEVELS)], 10, 11))
        check_rows(tree, LEVELS, 10)
        tree.close()

    @pytest.mark.parametrize(
        ("level", "rows"),
        [
            (0, np.zeros((), dtype=np.uint32)),
            (0, np.zeros((2, 1), dtype=np.uint32)),
            (0, np.zeros(2, dtype=np.int64)),
            (0, np.zeros(2, dtype=np.int32)),
            (0, np.zeros(2, dtype=np.uint16)),
            (0, np.zeros(0, dtype=np.float64)),
            (1, np.zeros((2, 23), dtype=np.float32)),
            (1, np.zeros((2, 25), dtype=np.float32)),
            (1, np.zeros(24, dtype=np.float32)),
            (1, np.zeros((2, 24), dtype=np.float64)),
            (1, np.zeros((2, 12, 2), dtype=np.float32)),
            (2, np.zeros((2, 8), dtype=np.float32)),
            (3, np.zeros((2, 3, 2), dtype=np.int64)),
        ],
        ids=lambda value: f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"level{value}",
    )
    def test_wrong_rows_are_refused_and_add_nothing(self, directory: Path, level: int, rows: NDArray[Any]) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 10)
        with pytest.raises(ValueError):  # noqa: PT011 -- the contract is the type, the words are the author's
            tree.append(level, rows)
        check_rows(tree, LEVELS, 10)
        fill(tree, LEVELS, 10, 20)
        check_rows(tree, LEVELS, 20)
        tree.close()

    def test_keeps_its_own_copy(self, directory: Path) -> None:
        tree = self.open(directory)
        for level, spec in enumerate(LEVELS):
            rows = example_rows(spec, 0, 50)
            tree.append(level, rows)
            rows[...] = 0
        check_rows(tree, LEVELS, 50)
        tree.close()

    def test_takes_rows_of_any_memory_layout(self, directory: Path) -> None:
        tree = self.open(directory)
        for level, spec in enumerate(LEVELS):
            rows = example_rows(spec, 0, 60)
            tree.append(level, np.repeat(rows[:20], 2, axis=0)[::2])
            tree.append(level, np.asfortranarray(rows[20:40]))
            frozen = rows[40:].copy()
            frozen.flags.writeable = False
            tree.append(level, frozen)
        check_rows(tree, LEVELS, 60)
        tree.close()

    def test_what_was_read_cannot_change_the_tree(self, directory: Path) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 50)
        for level in range(len(LEVELS)):
            rows = tree.read(level, 0, 50)
            if rows.flags.writeable:
                rows[...] = 0
        check_rows(tree, LEVELS, 50)
        tree.close()

    def test_what_was_read_stays_as_it_was(self, directory: Path) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 50)
        early = [tree.read(level, 10, 50) for level in range(len(LEVELS))]
        for length in range(50, 4050, 200):
            fill(tree, LEVELS, length, length + 200)
        tree.close()
        for rows, spec in zip(early, LEVELS, strict=True):
            np.testing.assert_array_equal(rows, example_rows(spec, 10, 50))

    def test_levels_are_independent(self, directory: Path) -> None:
        tree = self.open(directory)
        for level, spec in enumerate(LEVELS):
            tree.append(level, example_rows(spec, 0, 10 * (level + 1)))
        for level, spec in enumerate(LEVELS):
            assert tree.length(level) == 10 * (level + 1)
            np.testing.assert_array_equal(
                tree.read(level, 0, 10 * (level + 1)), example_rows(spec, 0, 10 * (level + 1))
            )
        tree.close()

    def test_trees_are_independent(self, tmp_path: Path) -> None:
        one, two = self.open(tmp_path / "one"), self.open(tmp_path / "two")
        fill(one, LEVELS, 0, 20)
        assert two.length(0) == 0
        fill(two, LEVELS, 0, 5)
        check_rows(one, LEVELS, 20)
        check_rows(two, LEVELS, 5)
        one.close()
        check_rows(two, LEVELS, 5)
        two.close()

    def test_holds_a_large_history(self, directory: Path) -> None:
        levels = (LevelSpec((), "uint32"), LevelSpec((64,), "float32"))
        tree = self.open(directory, levels)
        tokens, piece = 1_000_000, 131_072
        for start in range(0, tokens, piece):
            stop = min(start + piece, tokens)
            tree.append(0, example_rows(levels[0], start, stop))
            tree.append(1, example_rows(levels[1], start // 32, stop // 32))
        assert (tree.length(0), tree.length(1)) == (tokens, tokens // 32)
        np.testing.assert_array_equal(tree.read(0, 0, tokens), example_rows(levels[0], 0, tokens))
        np.testing.assert_array_equal(tree.read(1, 0, tokens // 32), example_rows(levels[1], 0, tokens // 32))
        tree.close()

    def test_flush_changes_nothing_that_is_read(self, directory: Path) -> None:
        tree = self.open(directory)
        tree.flush()
        fill(tree, LEVELS, 0, 40)
        tree.flush()
        tree.flush()
        check_rows(tree, LEVELS, 40)
        fill(tree, LEVELS, 40, 80)
        check_rows(tree, LEVELS, 80)
        tree.close()

    def test_closing_twice_is_harmless(self, directory: Path) -> None:
        tree = self.open(directory)
        fill(tree, LEVELS, 0, 10)
        tree.close()
        tree.close()

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
