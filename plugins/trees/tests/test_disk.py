"""The disk tree against everything that can happen to files: crashes, a full disk, rot, strangers and second writers."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mccore_trees.disk import DiskOptions, DiskTree
from mccore_trees.ram import RamOptions, RamTree

from mccore.api import LevelSpec, TreeSpec
from mccore.errors import RunError
from mccore.testing import example_rows

from .trees import GISTS, LEVELS, TOKENS, UNSYNCED, check, crash, flip, grow, open_tree

BLOCK = 1 << 16


# --- against a model --------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.integers(0, 1), st.sampled_from([0, 1, 3, 32, 1023, 1024, 1025, 16_384, 16_385])
        ),
        st.tuples(st.sampled_from(["flush", "reopen", "crash", "verify"]), st.just(0), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_any_history_equals_a_list(steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("tree")
    tree = open_tree(directory)
    lengths, flushed = [0, 0], [0, 0]
    for step, one, two in steps:
        if step == "append":
            grow(tree, one, two)
            lengths[one] += two
        elif step == "read":
            start, stop = sorted((one % (lengths[0] + 1), two % (lengths[0] + 1)))
            np.testing.assert_array_equal(tree.read(0, start, stop), example_rows(TOKENS, start, stop))
        elif step == "verify":
            tree.verify()
        else:
            if step == "flush":
                tree.flush()
            if step == "reopen":
                tree.close()
            if step == "crash":
                crash(tree)
                lengths = list(flushed)
            else:
                flushed = list(lengths)
            if step != "flush":
                tree = open_tree(directory)
    check(tree, tuple(lengths))
    tree.verify()
    tree.close()


@settings(deadline=None, max_examples=40)
@given(chunks=st.lists(st.integers(0, 3000), max_size=12), data=st.data())
def test_ram_equals_a_list(chunks: list[int], data: st.DataObject) -> None:
    tree = RamTree(RamOptions(), TreeSpec(LEVELS))
    kept = []
    for rows in chunks:
        grow(tree, 1, rows)
        length = tree.length(1)
        start = data.draw(st.integers(0, length))
        kept.append((start, length, tree.read(1, start, length)))
    for start, length, rows_read in kept:
        np.testing.assert_array_equal(rows_read, example_rows(GISTS, start, length))


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_between_any_two_writes_shows_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies the directory after every write, and in the middle of every write, and opens each copy."""
    directory, copies = tmp_path / "tree", tmp_path / "copies"
    states: list[tuple[Path, set[tuple[int, int]]]] = []
    flushed = (0, 0)
    flushing: tuple[int, int] | None = None

    def keep() -> None:
        copy = copies / str(len(states))
        shutil.copytree(directory, copy)
        states.append((copy, {flushed} | ({flushing} if flushing else set())))

    write = os.pwrite

    def torn_write(handle: int, data: Any, offset: int) -> int:
        half = write(handle, bytes(data)[: len(data) // 2], offset)
        keep()
        rest = write(handle, bytes(data)[half:], offset + half)
        keep()
        return half + rest

    tree = open_tree(directory)
    monkeypatch.setattr(os, "pwrite", torn_write)
    for tokens, gists in [(1, 0), (40, 1), (0, 3), (BLOCK // 4 + 5, 1200), (BLOCK // 4 - 46, 0)]:
        grow(tree, 0, tokens)
        grow(tree, 1, gists)
        flushing = (tree.length(0), tree.length(1))
        tree.flush()
        flushed, flushing = flushing, None
    grow(tree, 0, 7)
    monkeypatch.undo()
    crash(tree)

    assert len(states) > 40
    for copy, allowed in states:
        tree = open_tree(copy)
        lengths = (tree.length(0), tree.length(1))
        assert lengths in allowed
        check(tree, lengths)
        tree.verify()
        grow(tree, 0, 5)
        tree.close()
        again = open_tree(copy)
        check(again, (lengths[0] + 5, lengths[1]))
        again.close()


def test_what_was_never_flushed_takes_no_space_after_opening(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 100)
    tree.flush()
    grow(tree, 0, 50_000)
    crash(tree)
    open_tree(tmp_path).close()
    assert (tmp_path / "level-0.rows").stat().st_size == 400


WRITER = Path(__file__).with_name("writer.py")


@pytest.mark.parametrize("sync", ["fsync", "no fsync"])
def test_kill_9_at_any_moment_loses_nothing_flushed(tmp_path: Path, sync: str) -> None:
    directory = tmp_path / "tree"
    lengths = (0, 0)
    for lines in (1, 4, 9):  # the writer is somewhere behind these lines when it dies, a different place each time
        writer = subprocess.Popen(
            [sys.executable, str(WRITER), str(directory), sync], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        allowed = {lengths}
        for line in said:
            if not line.endswith("\n"):  # cut short by the kill, so that what it announces never began or is over
                continue
            word, tokens, gists = line.split()
            if word == "flushed":  # what came before can't come back
                allowed.clear()
            allowed.add((int(tokens), int(gists)))
        tree = open_tree(directory)
        lengths = (tree.length(0), tree.length(1))
        assert lengths in allowed
        np.testing.assert_array_equal(tree.read(0, 0, lengths[0]), np.arange(lengths[0]))
        np.testing.assert_array_equal(tree.read(1, 0, lengths[1]).ravel(), np.arange(16 * lengths[1]))
        tree.verify()
        tree.close()
    assert lengths[0] > 0


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_keeps_what_was_committed(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 10_000)
    grow(tree, 1, 100)
    tree.flush()
    with file_size_limit(100_000), pytest.raises(RunError, match=r"can't append to .*level-0\.rows") as full:
        grow(tree, 0, 60_000)
    assert "free some space" in (full.value.hint or "")
    check(tree, (10_000, 100))
    grow(tree, 0, 60_000)  # there is room again
    tree.flush()
    check(tree, (70_000, 100))
    with file_size_limit(100_000), pytest.raises(RunError, match="can't append to"):
        grow(tree, 0, 1)
    crash(tree)
    again = open_tree(tmp_path)
    check(again, (70_000, 100))
    again.verify()
    again.close()


def test_a_flush_on_a_full_disk_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 40_000)
    tree.flush()
    grow(tree, 0, 40_000)
    write = os.pwrite

    def full(handle: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="can't commit"):
        tree.flush()
    monkeypatch.setattr(os, "pwrite", write)
    tree.flush()
    crash(tree)
    again = open_tree(tmp_path)
    check(again, (80_000, 0))
    again.verify()
    again.close()


class file_size_limit:
    """No file may grow beyond so many bytes: writes fail as they do on a full disk. Python ignores the signal."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.before[1]))

    def __exit__(self, *exc: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


# --- flushing ---------------------------------------------------------------------------------------------------------


def test_fsync_decides_whether_a_flush_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    for options in (DiskOptions(), UNSYNCED):
        tree = open_tree(tmp_path / str(options.fsync), options)
        tree.append(1, example_rows(GISTS, 0, 1))
        tree.flush()
        calls: list[int] = []
        monkeypatch.setattr(os, "fdatasync", calls.append)
        grow(tree, 0, 10)
        tree.flush()
        monkeypatch.undo()
        tree.close()
        synced.append(len(calls))
    assert synced == [2, 0], "the rows of the one level that grew, then the commit"


def test_after_a_failed_sync_nothing_more_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(tmp_path, DiskOptions())
    grow(tree, 0, 10)
    tree.flush()
    grow(tree, 0, 10)

    def failing(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(RunError, match="can't commit"):
        tree.flush()
    monkeypatch.undo()
    with pytest.raises(RunError, match="failed to take an earlier flush"):
        tree.flush()
    tree.close()
    again = open_tree(tmp_path)
    check(again, (10, 0))
    again.close()


def test_a_flush_without_news_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(tmp_path, DiskOptions())
    grow(tree, 0, 10)
    tree.flush()
    written: list[int] = []
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: written.append(offset))
    tree.flush()
    monkeypatch.undo()
    assert written == []
    tree.close()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_large_reads_share_the_mapped_file(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 1, 40_000)  # 2.5 MB
    one, two = tree.read(1, 0, 40_000), tree.read(1, 5, 10)
    assert np.shares_memory(one, two)
    assert not one.flags.writeable
    grow(tree, 1, 10)
    tail = tree.read(1, 39_990, 40_010)
    np.testing.assert_array_equal(tail, example_rows(GISTS, 39_990, 40_010))
    assert not np.shares_memory(one, tail)
    assert not tail.flags.writeable
    tree.close()
    np.testing.assert_array_equal(one, example_rows(GISTS, 0, 40_000))


def test_a_closed_tree_says_so(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    tree.close()
    for use in (lambda: tree.length(0), lambda: tree.read(0, 0, 0), lambda: grow(tree, 0, 1), tree.flush, tree.verify):
        with pytest.raises(RunError, match="is closed"):
            use()


# --- rot --------------------------------------------------------------------------------------------------------------


def filled(directory: Path) -> Path:
    tree = open_tree(directory)
    grow(tree, 0, 100_000)  # 400,000 bytes: six blocks and a part
    grow(tree, 1, 5_000)  # 320,000 bytes: four blocks and a part
    tree.close()
    return directory


def test_rot_in_the_last_block_is_seen_at_opening(tmp_path: Path) -> None:
    flip(filled(tmp_path) / "level-0.rows", 399_999)
    with pytest.raises(RunError, match=rf"level-0\.rows is damaged at byte {6 * BLOCK}:"):
        open_tree(tmp_path)


@pytest.mark.parametrize(("level", "offset"), [(0, 0), (0, BLOCK - 1), (0, 3 * BLOCK), (1, 4 * BLOCK - 1)])
def test_rot_in_an_earlier_block_is_found_by_verify(tmp_path: Path, level: int, offset: int) -> None:
    flip(filled(tmp_path) / f"level-{level}.rows", offset)
    tree = open_tree(tmp_path)
    with pytest.raises(RunError, match=rf"level-{level}\.rows is damaged at byte {offset // BLOCK * BLOCK}:"):
        tree.verify()
    tree.close()


def test_rot_in_the_checksums_is_found_by_verify(tmp_path: Path) -> None:
    flip(filled(tmp_path) / "level-0.sums", 9)
    tree = open_tree(tmp_path)
    with pytest.raises(RunError, match=rf"level-0\.rows is damaged at byte {2 * BLOCK}:"):
        tree.verify()
    tree.close()


@pytest.mark.parametrize("name", ["level-0.rows", "level-1.rows", "level-0.sums"])
def test_a_file_that_lost_its_end_is_named(tmp_path: Path, name: str) -> None:
    path = filled(tmp_path) / name
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(RunError, match=rf"{name} is damaged at byte {path.stat().st_size}:"):
        open_tree(tmp_path)


@pytest.mark.parametrize("slot", [0, 4096])
def test_one_rotten_copy_of_the_commit_loses_nothing(tmp_path: Path, slot: int) -> None:
    flip(filled(tmp_path) / "commits", slot + 20)
    tree = open_tree(tmp_path)
    check(tree, (100_000, 5_000))
    tree.close()


def test_two_rotten_copies_of_the_commit_are_an_error(tmp_path: Path) -> None:
    for slot in (0, 4096):
        flip(filled(tmp_path) / "commits" if slot == 0 else tmp_path / "commits", slot + 20)
    with pytest.raises(RunError, match="commits is damaged at byte 0"):
        open_tree(tmp_path)


def test_an_emptied_commit_file_is_an_error(tmp_path: Path) -> None:
    os.truncate(filled(tmp_path) / "commits", 0)
    with pytest.raises(RunError, match="commits is damaged at byte 0"):
        open_tree(tmp_path)


# --- headers and strangers --------------------------------------------------------------------------------------------


def test_another_spec_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(RunError, match=r"level 1 has \{'shape': \[16\].*instead of \{'shape': \[17\]"):
        open_tree(tmp_path, levels=(TOKENS, LevelSpec((17,), "float32")))
    with pytest.raises(RunError, match="instead of no such level"):
        open_tree(tmp_path, levels=(TOKENS,))


def _newer(header: Path) -> None:
    header.write_text(json.dumps({**json.loads(header.read_text()), "version": 2}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_newer, "format version 2, and this is version 1"),
        (lambda header: header.write_text("{"), "isn't the header of a tree"),
        (lambda header: header.write_text('{"format": "else", "version": 1, "levels": []}'), "isn't the header"),
        (lambda header: header.write_text('{"format": "mccore tree", "version": 1, "levels": 3}'), "isn't the header"),
        (lambda header: header.unlink(), r"tree\.json is missing"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    header = filled(tmp_path) / "tree.json"
    kept = header.read_bytes()
    change(header)
    with pytest.raises(RunError, match=message):
        open_tree(tmp_path)
    header.write_bytes(kept)
    tree = open_tree(tmp_path)  # the refusal touched nothing
    check(tree, (100_000, 5_000))
    tree.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    tree = open_tree(tmp_path)
    grow(tree, 0, 10)
    with pytest.raises(RunError, match="is open elsewhere"):
        open_tree(tmp_path)
    grow(tree, 0, 10)
    tree.close()
    again = open_tree(tmp_path)
    check(again, (20, 0))
    again.close()


def test_a_failed_opening_lets_go_of_the_lock(tmp_path: Path) -> None:
    path = filled(tmp_path) / "level-1.rows"
    kept = path.read_bytes()
    flip(path, len(kept) - 1)
    with pytest.raises(RunError, match="damaged"):
        open_tree(tmp_path)
    path.write_bytes(kept)
    open_tree(tmp_path).close()


def test_it_needs_a_directory() -> None:
    with pytest.raises(RunError, match="needs a directory"):
        DiskTree(DiskOptions(), TreeSpec(LEVELS))


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "tree").write_text("not a directory")
    with pytest.raises(RunError, match="can't open the tree in"):
        open_tree(tmp_path / "tree")


@pytest.mark.parametrize("spec", [LevelSpec((), "object"), LevelSpec((0,), "float32")])
def test_rows_that_are_not_plain_bytes_are_refused(tmp_path: Path, spec: LevelSpec) -> None:
    for build in (lambda: open_tree(tmp_path, levels=(spec,)), lambda: RamTree(RamOptions(), TreeSpec((spec,)))):
        with pytest.raises(ValueError, match="can't be stored"):
            build()
