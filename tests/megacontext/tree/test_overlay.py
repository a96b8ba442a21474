"""Overlays: a history over a shared beginning reads as if it had been written whole, whatever is appended to the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore import plugins
from mccore.api import Extension, Options, TreeBackend, TreeSpec
from mccore.config import Choice
from mccore.megacontext.tree.overlay import OverlayError, OverlayTree, lengths_at, mount
from mccore.megacontext.tree.tree import Tree
from mccore.testing import TreeBackendSuite
from mccore.testing.stored_trees import LEVELS, example_rows, fill
from tests.megacontext.tree.test_tree import K, encoder, ids_of, open_tree, rows_of

RAM = plugins.load("tree", "ram")


def ram(levels: Any = LEVELS) -> TreeBackend:
    return RAM.build(RAM.options(), TreeSpec(levels))


class TestOverlayOfNothing(TreeBackendSuite):
    """With an empty base it is a backend like any other."""

    def extension(self) -> Extension[TreeBackend]:
        def build(options: Options, spec: TreeSpec) -> OverlayTree:
            return OverlayTree(ram(spec.levels), ram(spec.levels))

        return Extension(build=build, options=Options, summary="over nothing")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 7), st.lists(st.integers(0, 9), min_size=4, max_size=4)),
        st.tuples(st.just("branch"), st.integers(0, 7), st.lists(st.floats(0, 1), min_size=4, max_size=4)),
        st.tuples(st.just("read"), st.integers(0, 7), st.lists(st.floats(0, 1), min_size=2, max_size=2)),
    ),
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_any_branching_equals_lists(steps: list[tuple[str, int, list[Any]]]) -> None:
    """Trees that branch off each other anywhere, and all go on: each equals its own lists."""
    trees: list[TreeBackend] = [ram()]
    lists: list[list[list[Any]]] = [[[] for _ in LEVELS]]
    row = 0  # every appended row is another one, so that a row of the wrong branch can't pass
    for step, which, numbers in steps:
        at = which % len(trees)
        if step == "append":
            for level, count in enumerate(numbers):
                rows = example_rows(LEVELS[level], row, row + count)
                trees[at].append(level, rows)
                lists[at][level] += list(rows)
                row += count
        elif step == "branch":
            lengths = [round(share * len(rows)) for share, rows in zip(numbers, lists[at], strict=True)]
            trees.append(OverlayTree(trees[at], ram(), lengths))
            lists.append([rows[:length] for rows, length in zip(lists[at], lengths, strict=True)])
        else:
            for level, rows in enumerate(lists[at]):
                start, stop = sorted(round(share * len(rows)) for share in numbers)
                found = trees[at].read(level, start, stop)
                assert found.dtype == np.dtype(LEVELS[level].dtype)
                assert found.shape == (stop - start, *LEVELS[level].shape)
                np.testing.assert_array_equal(found, np.array(rows[start:stop]).reshape(found.shape))
    for tree, levels in zip(trees, lists, strict=True):
        for level, rows in enumerate(levels):
            assert tree.length(level) == len(rows)
            found = tree.read(level, 0, len(rows))
            np.testing.assert_array_equal(found, np.array(rows).reshape(found.shape))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("begin", [0, 63, 64, 150])
def test_a_tree_over_a_base_has_the_bits_of_one_written_whole(tmp_path: Path, kind: str, begin: int) -> None:
    coder, ids = encoder(), ids_of(300)
    whole = open_tree("ram", tmp_path, coder)
    whole.append(ids)
    base = open_tree("disk", tmp_path / "base", coder)
    base.append(ids[:150])
    base.close()
    # Two sessions mount the saved context, one of them cut off before its end, and go on in their own ways.
    mounts = [
        plugins.build("tree", Choice(name="disk"), coder.spec(tmp_path / "base", read_only=True)) for _ in range(2)
    ]
    lengths = lengths_at(begin, K, 4)
    own = [
        plugins.build("tree", Choice(name=kind), coder.spec(tmp_path / f"own-{at}" if kind == "disk" else None))
        for at in range(2)
    ]
    one, two = (Tree(OverlayTree(mount, each, lengths), coder) for mount, each in zip(mounts, own, strict=True))
    for start in range(begin, 300, 7):
        one.append(ids[start : min(start + 7, 300)])
        two.append([3] * 5)
    for there, expected in zip(rows_of(one), rows_of(whole), strict=True):
        np.testing.assert_array_equal(there, expected)
    np.testing.assert_array_equal(two.ids(0, begin + 5), [*ids[:begin], 3, 3, 3, 3, 3])
    assert own[0].length(0) == 300 - begin  # nothing of the base is copied
    one.backend.close()
    if kind == "disk":  # the same again later
        kept = plugins.build("tree", Choice(name="disk"), coder.spec(tmp_path / "own-0"))
        again = Tree(OverlayTree(mounts[0], kept, lengths), coder)
        for there, expected in zip(rows_of(again), rows_of(whole), strict=True):
            np.testing.assert_array_equal(there, expected)
        again.backend.close()
    for each in mounts:
        each.close()


def test_gists_that_a_base_owes_are_made_in_the_own_part(tmp_path: Path) -> None:
    coder, ids = encoder(), ids_of(90)
    backend = plugins.build("tree", Choice(name="disk"), coder.spec(tmp_path / "base"))
    backend.append(0, ids.astype(np.uint32))
    backend.close()
    mount = plugins.build("tree", Choice(name="disk"), coder.spec(tmp_path / "base", read_only=True))
    tree = Tree(OverlayTree(mount, open_tree("ram", tmp_path, coder).backend), coder)
    whole = open_tree("ram", tmp_path, coder)
    whole.append(ids)
    for there, expected in zip(rows_of(tree), rows_of(whole), strict=True):
        np.testing.assert_array_equal(there, expected)
    mount.close()


def test_a_base_with_fewer_rows_is_refused() -> None:
    base = ram()
    fill(base, LEVELS, 0, 10)
    with pytest.raises(OverlayError, match=r"begins with 11 rows of level 2 of its base, which has 10"):
        OverlayTree(base, ram(), [10, 10, 11, 10])
    with pytest.raises(ValueError, match="3 lengths for a base of 4 levels"):
        OverlayTree(base, ram(), [10, 10, 10])


def test_only_what_can_be_shared_is_mounted(tmp_path: Path) -> None:
    coder = encoder()
    tree = open_tree("disk", tmp_path / "base", coder)
    tree.append(ids_of(20))
    tree.backend.flush()
    mounted = mount(lambda spec: plugins.build("tree", Choice(name="disk"), spec), coder.spec(tmp_path / "base"))
    tree.append(ids_of(20))
    assert mounted.length(0) == 20
    tree.close()
    assert mounted.refresh()
    assert mounted.length(0) == 40
    mounted.close()
    with pytest.raises(OverlayError, match="RamTree can't be opened by several"):
        mount(lambda spec: RAM.build(RAM.options(), spec), coder.spec(tmp_path / "base"))


def test_closing_leaves_the_base_open() -> None:
    base = ram()
    fill(base, LEVELS, 0, 10)
    overlay = OverlayTree(base, ram())
    overlay.append(0, example_rows(LEVELS[0], 10, 12))
    overlay.close()
    assert base.length(0) == 10
    np.testing.assert_array_equal(OverlayTree(base, ram()).read(0, 0, 10), example_rows(LEVELS[0], 0, 10))
