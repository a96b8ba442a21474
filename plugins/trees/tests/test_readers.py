"""Many readers beside one writer: each shows exactly what some flush left, and touches nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mccore_trees.disk import DiskOptions, DiskTree
from mccore_trees.ram import RamOptions, RamTree

from mccore.api import LevelSpec, RepairableTree, SharedTree, TreeSpec
from mccore.errors import RunError
from mccore.testing import example_rows

from .trees import LEVELS, UNSYNCED, check, crash, flip, grow, open_tree

WRITER = Path(__file__).with_name("writer.py")


def open_reader(directory: Path, levels: tuple[LevelSpec, ...] = LEVELS, **how: bool) -> DiskTree:
    return DiskTree(DiskOptions(), TreeSpec(levels, directory, read_only=True, **how))


def test_a_reader_shows_what_was_flushed_and_more_when_it_refreshes(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 100)
    one = open_reader(tmp_path)
    check(one, (0, 0))
    assert not one.refresh()
    tree.flush()
    check(one, (0, 0))
    two = open_reader(tmp_path)
    check(two, (100, 0))
    grow(tree, 0, 300_000)  # more than is read without a map
    grow(tree, 1, 20)
    assert not two.refresh()
    tree.flush()
    assert one.refresh()
    assert two.refresh()
    assert not two.refresh()
    kept = two.read(0, 0, 300_100)
    for reader in (one, two):
        check(reader, (300_100, 20))
    grow(tree, 0, 300_000)
    tree.close()
    check(one, (300_100, 20))
    assert one.refresh()
    check(one, (600_100, 20))
    one.close()
    two.close()
    np.testing.assert_array_equal(kept, example_rows(LEVELS[0], 0, 300_100))


def test_a_reader_writes_nothing_and_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 100)
    tree.flush()
    grow(tree, 0, 50)
    crash(tree)  # leaves rows that were never flushed, which a writer would cut off
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    flags: list[int] = []
    real = os.open

    def watched(path: Any, how: int, *rest: Any, **more: Any) -> int:
        flags.append(how)
        return real(path, how, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    reader = open_reader(tmp_path)
    check(reader, (100, 0))
    reader.refresh()
    reader.flush()
    reader.verify()
    writer = open_tree(tmp_path)  # the reader holds no lock
    writer.close()
    reader.close()
    read = flags[:5]
    assert not any(how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) for how in read)
    before.pop("level-0.rows")  # which the writer cut back
    assert {name: (tmp_path / name).read_bytes() for name in before} == {
        name: data for name, (data, _) in before.items()
    }


def test_a_reader_takes_no_rows(tmp_path: Path) -> None:
    open_tree(tmp_path).close()
    for reader in (open_reader(tmp_path), DiskTree(UNSYNCED, TreeSpec(LEVELS, tmp_path, salvage=True))):
        with pytest.raises(RunError, match="takes no rows"):
            grow(reader, 0, 1)
        assert reader.length(0) == 0
        reader.close()


def test_what_is_stored_can_be_asked(tmp_path: Path) -> None:
    open_tree(tmp_path).close()
    reader = open_reader(tmp_path, levels=())
    assert reader.levels == (LevelSpec((), "<u4"), LevelSpec((16,), "<f4"))
    assert isinstance(reader, SharedTree)
    assert isinstance(reader, RepairableTree)
    reader.close()
    assert not isinstance(RamTree(RamOptions(), TreeSpec(LEVELS)), SharedTree | RepairableTree)


def test_reading_needs_a_tree_and_its_rows(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no tree in"):
        open_reader(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    tree = open_tree(tmp_path / "tree")
    grow(tree, 0, 100)
    tree.close()
    with pytest.raises(RunError, match="stores other rows"):
        open_reader(tmp_path / "tree", levels=LEVELS[:1])
    flip(tmp_path / "tree" / "level-0.rows", 17)
    with pytest.raises(RunError, match="damaged at byte 0"):
        open_reader(tmp_path / "tree")
    there = open_reader(tmp_path / "tree", salvage=True)
    assert [(each.level, each.start, each.stop) for each in there.damage()] == [(0, 0, 100)]
    there.close()


def test_a_refresh_that_fails_changes_nothing(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 100)
    tree.flush()
    reader = open_reader(tmp_path)
    grow(tree, 0, 100)
    tree.close()
    flip(tmp_path / "level-0.rows", 17)
    with pytest.raises(RunError, match="damaged at byte 0"):
        reader.refresh()
    assert reader.length(0) == 100
    flip(tmp_path / "level-0.rows", 17)
    assert reader.refresh()
    check(reader, (200, 0))
    reader.close()


def test_a_reader_of_a_tree_that_was_cut_is_told(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 400_000)
    grow(tree, 1, 10)
    tree.close()
    reader = open_reader(tmp_path)
    repair = DiskTree(UNSYNCED, TreeSpec(LEVELS, tmp_path, salvage=True))
    with pytest.raises(ValueError, match="don't fit"):
        repair.truncate((400_001, 10))
    kept = repair.truncate((1000, 10))
    check(repair, (1000, 10))
    repair.close()
    check(reader, (400_000, 10))
    with pytest.raises(RunError, match="cut by a repair"):
        reader.refresh()
    check(reader, (400_000, 10))
    reader.close()
    again = open_tree(tmp_path)
    check(again, (1000, 10))
    again.verify()
    again.close()
    whole = open_reader(kept)
    check(whole, (400_000, 10))
    whole.close()


@pytest.mark.parametrize("sync", ["fsync", "no fsync"])
def test_a_reader_beside_a_writing_process_sees_only_flushes(tmp_path: Path, sync: str) -> None:
    directory = tmp_path / "tree"
    writer = subprocess.Popen([sys.executable, str(WRITER), str(directory), sync], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    announced = {(0, 0)}
    seen: set[tuple[int, int]] = set()
    reader: DiskTree | None = None
    while len(seen) < 12:  # the writer goes on all the time, so that reads fall into the middle of its commits
        word, *numbers = writer.stdout.readline().split()
        flushing = (int(numbers[0]), int(numbers[1]))
        announced.add(flushing)
        reader = reader or open_reader(directory)
        reader.refresh()
        lengths = (reader.length(0), reader.length(1))
        if word == "flushed":
            assert lengths >= flushing
        seen.add(lengths)
        late = [max(0, length - 5000) for length in lengths]
        np.testing.assert_array_equal(reader.read(0, late[0], lengths[0]), np.arange(late[0], lengths[0]))
        np.testing.assert_array_equal(
            reader.read(1, late[1], lengths[1]).ravel(), np.arange(16 * late[1], 16 * lengths[1])
        )
    writer.send_signal(signal.SIGKILL)
    for line in writer.stdout.readlines():
        if line.endswith("\n"):
            announced.add((int(line.split()[1]), int(line.split()[2])))
    writer.stdout.close()
    writer.wait()
    assert seen <= announced
    assert reader is not None
    reader.refresh()
    assert reader.damage() == ()
    reader.close()
