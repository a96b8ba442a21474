"""Faults at every place: power loss with any of the last writes missing or torn, refusals at any call, rot in any byte."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mccore_trees import level_file
from mccore_trees.disk import DiskOptions, DiskTree

from mccore.api import LevelSpec, TreeSpec
from mccore.errors import RunError
from mccore.testing import example_rows

from .trees import crash

LEVELS = (LevelSpec((), "uint32"), LevelSpec((3,), "float32"))  # 12-byte rows lie across blocks
SECTOR = 512  # what a disk writes whole
Lengths = tuple[int, ...]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums over 256 bytes, so that a small tree has many of them; and no waiting for a disk that stays up."""
    monkeypatch.setattr(level_file, "BLOCK_BYTES", 256)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


def open_tree(directory: Path, **how: bool) -> DiskTree:
    return DiskTree(DiskOptions(), TreeSpec(LEVELS, directory, **how))


def lengths_of(tree: DiskTree) -> Lengths:
    return tuple(tree.length(level) for level in range(len(LEVELS)))


def grow(tree: DiskTree, counts: tuple[int, ...]) -> None:
    for level, (spec, count) in enumerate(zip(LEVELS, counts, strict=True)):
        tree.append(level, example_rows(spec, tree.length(level), tree.length(level) + count))


def assert_rows(tree: DiskTree) -> None:
    for level, spec in enumerate(LEVELS):
        np.testing.assert_array_equal(
            tree.read(level, 0, tree.length(level)), example_rows(spec, 0, tree.length(level))
        )


PIECES = [(1, 0), (70, 3), (0, 40), (64, 0), (200, 60), (3, 1), (0, 22), (129, 30)]


# --- power loss -------------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """What the process asked of the disk, in order, and which flushes had begun and ended by then."""

    names: dict[int, str] = field(default_factory=dict)  # by inode
    files: dict[str, bytes] = field(default_factory=dict)  # before the first call
    calls: list[tuple[str, str, int, bytes]] = field(default_factory=list)  # kind, name, offset or size, data
    allowed: list[set[Lengths]] = field(default_factory=list)  # after so many calls

    def name(self, handle: int) -> str:
        return self.names[os.fstat(handle).st_ino]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The calls of a writer that appends, flushes, dies, and goes on."""
    directory = tmp_path_factory.mktemp("log") / "tree"
    found = Log()
    write, sync, truncate = os.pwrite, os.fdatasync, os.ftruncate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level_file, "BLOCK_BYTES", 256)
        tree = open_tree(directory)
        found.names = {path.stat().st_ino: path.name for path in directory.iterdir()}
        found.files = {path.name: path.read_bytes() for path in directory.iterdir()}
        allowed: set[Lengths] = {(0, 0)}

        def note(kind: str, handle: int, at: int, data: bytes) -> None:
            found.calls.append((kind, found.name(handle), at, data))
            found.allowed.append(set(allowed))

        def logged_write(handle: int, data: Any, offset: int) -> int:
            note("write", handle, offset, bytes(data))
            return write(handle, data, offset)

        def logged_sync(handle: int) -> None:
            note("sync", handle, 0, b"")
            sync(handle)

        def logged_truncate(handle: int, size: int) -> None:
            note("truncate", handle, size, b"")
            truncate(handle, size)

        patch.setattr(os, "pwrite", logged_write)
        patch.setattr(os, "fdatasync", logged_sync)
        patch.setattr(os, "ftruncate", logged_truncate)
        for turn, piece in enumerate(PIECES):
            grow(tree, piece)
            if turn % 3 == 1:
                continue
            allowed |= {lengths_of(tree)}
            tree.flush()
            allowed -= {each for each in allowed if each != lengths_of(tree)}
            if turn == 3:
                grow(tree, (50, 50))
                crash(tree)
                tree = open_tree(directory)
        crash(tree)
    return found


def lose_power(log: Log, calls: int, chance: random.Random, directory: Path) -> None:
    """Write what a disk may hold when the power goes after so many calls: what was waited for, and of the later writes any
    sectors in any order."""
    directory.mkdir()
    share = chance.choice([0.0, 0.3, 0.7, 1.0])
    for name, before in log.files.items():
        data = bytearray(before)
        here = [call for call in log.calls[:calls] if call[1] == name]
        synced = max((at + 1 for at, call in enumerate(here) if call[0] == "sync"), default=0)
        for at, (kind, _, offset, written) in enumerate(here):
            if kind == "truncate" and (at < synced or chance.random() < 0.5):
                del data[offset:]
            if kind != "write":
                continue
            for start, stop in sectors(offset, len(written)):
                if at >= synced and chance.random() < 0.1:  # torn
                    stop = chance.randint(start, stop)
                if at < synced or chance.random() < share:
                    data.extend(bytes(max(0, stop - len(data))))
                    data[start:stop] = written[start - offset : stop - offset]
            if at >= synced and chance.random() < 0.3:  # the size of the file came through, the bytes didn't
                data.extend(bytes(max(0, offset + len(written) - len(data))))
        (directory / name).write_bytes(data)


def sectors(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of `[offset, offset + size)` between multiples of a sector."""
    at = offset
    while at < offset + size:
        stop = min(offset + size, (at // SECTOR + 1) * SECTOR)
        yield at, stop
        at = stop


@settings(deadline=None, max_examples=100)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_power_loss_leaves_a_flush(log: Log, share: float, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    calls = round(share * len(log.calls))
    directory = tmp_path_factory.mktemp("power") / "tree"
    lose_power(log, calls, random.Random(seed), directory)
    allowed = log.allowed[calls - 1] if calls else {(0, 0)}
    if calls < len(log.calls):
        allowed = allowed | log.allowed[calls]  # the flush that the next call belongs to hadn't ended
    reader = open_tree(directory, read_only=True)
    seen = lengths_of(reader)
    assert seen in allowed
    assert_rows(reader)
    tree = open_tree(directory)
    assert lengths_of(tree) == seen
    tree.verify()
    grow(tree, (30, 30))
    tree.flush()
    assert_rows(tree)
    crash(tree)
    assert reader.refresh()
    assert lengths_of(reader) == tuple(length + 30 for length in seen)
    assert_rows(reader)
    assert reader.damage() == ()
    reader.close()


def test_the_log_has_every_kind_of_call(log: Log) -> None:
    """Else the test above would pass for want of anything to lose."""
    assert {(kind, name.partition(".")[2] or name) for kind, name, _, _ in log.calls} >= {
        ("write", "rows"), ("write", "sums"), ("write", "commits"),
        ("sync", "rows"), ("sync", "sums"), ("sync", "commits"), ("truncate", "rows"),
    }  # fmt: skip


# --- refusals ---------------------------------------------------------------------------------------------------------


class Refusal:
    """Makes one call of a function fail: the `at`-th, a writing one after it wrote a part."""

    def __init__(self, name: str, error: int, at: int) -> None:
        self.name, self.error, self.at = name, error, at
        self.calls = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        real = getattr(os, self.name)

        def refusing(handle: int, *rest: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.at:
                if rest:
                    real(handle, bytes(rest[0])[: len(rest[0]) // 2], rest[1])
                raise OSError(self.error, os.strerror(self.error))
            return real(handle, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, self.name, refusing)
            yield


def calls_of(name: str, directory: Path) -> int:
    counting = Refusal(name, 0, -1)
    tree = open_tree(directory)
    with counting():
        for piece in PIECES:
            grow(tree, piece)
            tree.flush()
    tree.close()
    return counting.calls


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_write_refused_anywhere_loses_nothing(tmp_path: Path, error: int) -> None:
    for at in range(calls_of("pwrite", tmp_path / "counted")):
        tree = open_tree(tmp_path / str(at))
        flushed: Lengths = (0, 0)
        errors = 0
        with Refusal("pwrite", error, at)():
            for piece in PIECES:
                for level, (spec, count) in enumerate(zip(LEVELS, piece, strict=True)):
                    for attempt in range(2):
                        length = tree.length(level)
                        try:
                            tree.append(level, example_rows(spec, length, length + count))
                            break
                        except RunError:
                            errors += 1
                            assert attempt == 0
                            assert tree.length(level) == length
                for attempt in range(2):
                    try:
                        tree.flush()
                        flushed = lengths_of(tree)
                        break
                    except RunError:
                        errors += 1
                        assert attempt == 0
                        reader = open_tree(tmp_path / str(at), read_only=True)
                        assert lengths_of(reader) in (flushed, lengths_of(tree))  # never something in between
                        assert_rows(reader)
                        reader.close()
        assert_rows(tree)
        crash(tree)
        again = open_tree(tmp_path / str(at))
        assert lengths_of(again) == flushed == tuple(np.sum(PIECES, axis=0))
        assert_rows(again)
        again.verify()
        again.close()
        assert errors <= 1


def test_a_disk_that_fails_anywhere_promises_nothing_more(tmp_path: Path) -> None:
    for at in range(calls_of("fdatasync", tmp_path / "counted")):
        directory = tmp_path / str(at)
        tree = open_tree(directory)
        flushed: Lengths = (0, 0)
        with Refusal("fdatasync", errno.EIO, at)():
            for piece in PIECES:
                grow(tree, piece)
                try:
                    tree.flush()
                except RunError:
                    break
                flushed = lengths_of(tree)
            begun = lengths_of(tree)
            assert begun != flushed
            with pytest.raises(RunError, match="failed to take an earlier flush"):
                tree.flush()
            tree.close()
        again = open_tree(directory)
        assert lengths_of(again) in (flushed, begun)
        assert_rows(again)
        again.verify()
        again.close()


# --- rot --------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_is_named_or_harmless(tmp_path: Path) -> None:
    directory = tmp_path / "tree"
    tree = open_tree(directory)
    grow(tree, (100, 25))
    tree.close()
    harmless, named, messages = 0, 0, set()
    for path in sorted(directory.iterdir()):
        whole = path.read_bytes()
        every = range(len(whole)) if path.name != "commits" else [*range(64), *range(4096, 4160), *range(64, 8192, 151)]
        for offset in every:
            data = bytearray(whole)
            data[offset] ^= offset * 37 % 255 + 1
            path.write_bytes(data)
            try:
                there = open_tree(directory, read_only=True)
            except RunError as error:
                messages.add(str(error).partition(str(directory))[2] != "")
                named += 1
                continue
            if found := there.damage():
                assert [each.path for each in found] in ([path], [path.with_suffix(".rows")])
                named += 1
            else:
                assert lengths_of(there) == (100, 25)
                assert_rows(there)
                harmless += 1
            there.close()
        path.write_bytes(whole)
    assert messages == {True}  # each says where
    assert named > 700
    assert harmless > 100  # either copy of the commit record, and the zeros behind them


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Reading asks for no lock; writing is warned, and a process id stands in for the lock on this machine."""

    def refuse(handle: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    tree = open_tree(tmp_path)
    grow(tree, (3, 1))
    tree.flush()
    assert "file system without locks" in caplog.text
    reader = open_tree(tmp_path, read_only=True)
    assert lengths_of(reader) == (3, 1)
    reader.close()
    (tmp_path / "lock").write_text(f"1 {socket.gethostname()}\n")  # process 1 lives
    with pytest.raises(RunError, match="open elsewhere"):
        open_tree(tmp_path)
    (tmp_path / "lock").write_text(f"999999999 {socket.gethostname()}\n")  # no process has that number
    open_tree(tmp_path).close()
    assert (tmp_path / "lock").read_text() == ""
    tree.close()


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match="Input/output error"):
        open_tree(tmp_path)


@pytest.mark.parametrize("name", ["tree.json", "commits", "level-0.rows", "level-1.sums", "lock"])
def test_a_fifo_in_a_tree_is_never_waited_for(tmp_path: Path, name: str) -> None:
    tree = open_tree(tmp_path)
    grow(tree, (3, 1))
    tree.close()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="regular file"):
        open_tree(tmp_path)


def test_a_header_that_is_nested_without_end_is_none(tmp_path: Path) -> None:
    open_tree(tmp_path).close()
    (tmp_path / "tree.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="isn't the header of a tree"):
        open_tree(tmp_path)
