"""The contract of `mccore.api.TreeBackend` as tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mccore.api import LevelSpec, TreeBackend
from mccore.testing.stored_trees import LEVELS, StoredTreeSuite, check_rows, example_rows, fill


class TreeBackendSuite(StoredTreeSuite):
    """Subclass it, override `extension`, and set `persistent` when rows outlive the process that appended them."""

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
