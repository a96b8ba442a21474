"""One level of a disk tree: its rows end to end in one file, and a CRC-32 per block of 64 KiB in another."""

from __future__ import annotations

import mmap
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore_trees.commits import LevelCommit
from mccore_trees.files import damage, failure, open_file, read_at, sync, write_at
from mccore_trees.rows import RowType

BLOCK_BYTES = 1 << 16
_MAP_BYTES = 1 << 20  # rows behind the map are read by a call until they are worth a new map


def level_paths(directory: Path, level: int) -> tuple[Path, Path]:
    """The files of a level: its rows and their checksums."""
    return directory / f"level-{level}.rows", directory / f"level-{level}.sums"


class LevelFile:
    """Append-only rows with checksums. Rows count once `commit` was called and its record is on the disk.

    Opening cuts off what was never committed and checks the last block against the commit; earlier blocks are checked by
    `verify`. Raises RunError for damage, for a full disk and for every other refusal of the file system.
    """

    def __init__(self, directory: Path, rows: RowType, committed: LevelCommit) -> None:
        self.path, self._sums_path = level_paths(directory, rows.level)
        self._type = rows
        self.length = committed.rows
        self._synced_length = -1  # whoever wrote these rows may not have waited for the disk
        self._tail_sum = committed.tail_sum
        self._pending: list[int] = []  # sums of blocks that filled up since the last commit
        self._committed_blocks = self._bytes // BLOCK_BYTES
        self._map = rows.empty(0)
        try:
            self._file = open_file(self.path)
            self._sums = open_file(self._sums_path)
            self._cut_back()
        except OSError as error:
            raise failure("open", self.path, error) from error
        self._check_block(self._committed_blocks, self._tail_sum)

    @property
    def _bytes(self) -> int:
        return self.length * self._type.row_bytes

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows `[m, *shape]`: all of them, or none and an error."""
        self._type.check(rows)
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        try:
            write_at(self._file, data, self._bytes)
        except OSError as error:
            with suppress(OSError):  # the bytes behind the rows don't count and are written over by the next append
                os.ftruncate(self._file.fileno(), self._bytes)
            raise failure("append to", self.path, error) from error
        at = 0
        while at < len(data):
            room = BLOCK_BYTES - (self._bytes + at) % BLOCK_BYTES
            piece = data[at : at + room]
            self._tail_sum = zlib.crc32(piece, self._tail_sum)
            at += len(piece)
            if len(piece) == room:
                self._pending.append(self._tail_sum)
                self._tail_sum = 0
        self.length += len(rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)`, read-only: a view of the mapped file, or a copy of a few rows behind the map."""
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"rows [{start}, {stop}) of level {self._type.level}, which has {self.length}")
        row_bytes = self._type.row_bytes
        if stop > len(self._map) and max(stop - len(self._map), stop - start) * row_bytes >= _MAP_BYTES:
            mapped = mmap.mmap(self._file.fileno(), self._bytes, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(mapped, dtype=self._type.dtype).reshape(-1, *self._type.shape)
        if stop <= len(self._map):
            return self._map[start:stop]
        rows = self._type.empty(stop - start)
        self._read_bytes(rows.reshape(-1).view(np.uint8).data, start * row_bytes)
        rows.flags.writeable = False
        return rows

    def commit(self, *, durable: bool) -> LevelCommit:
        """Complete the checksums, wait for the disk when `durable`, and say what a commit record has to hold. Raises OSError."""
        new_sums = len(self._pending)
        if new_sums:
            write_at(self._sums, np.array(self._pending, dtype="<u4").tobytes(), 4 * self._committed_blocks)
            self._committed_blocks += new_sums
            self._pending.clear()
        if durable and self.length != self._synced_length:
            if new_sums or self._synced_length < 0:
                sync(self._sums)
            sync(self._file)
            self._synced_length = self.length
        return LevelCommit(self.length, self._tail_sum)

    def verify(self) -> None:
        """Check every block against its checksum. Raises RunError naming the file and the offset of the first bad block."""
        sums = np.empty(self._committed_blocks, dtype="<u4")
        try:
            read_at(self._sums, sums.view(np.uint8).data, 0)
        except EOFError:
            raise damage(self._sums_path, sums.nbytes, "it ends before its checksums do") from None
        except OSError as error:
            raise failure("read", self._sums_path, error) from error
        for block, expected in enumerate([*sums.tolist(), *self._pending, self._tail_sum]):
            self._check_block(block, expected)

    def close(self) -> None:
        """Let go of the files. Views of the map stay readable."""
        self._file.close()
        self._sums.close()

    def _cut_back(self) -> None:
        """Drop what a process that died had written beyond its last commit."""
        for file, path, size in (
            (self._file, self.path, self._bytes),
            (self._sums, self._sums_path, 4 * self._committed_blocks),
        ):
            there = os.fstat(file.fileno()).st_size
            if there < size:
                raise damage(path, there, f"it ends there, and {size} bytes were committed")
            if there > size:
                os.ftruncate(file.fileno(), size)

    def _check_block(self, block: int, expected: int) -> None:
        start = block * BLOCK_BYTES
        data = bytearray(min(BLOCK_BYTES, self._bytes - start))
        self._read_bytes(memoryview(data), start)
        if zlib.crc32(data) != expected:
            raise damage(self.path, start, f"the {len(data)} bytes from there don't match their checksum")

    def _read_bytes(self, into: memoryview, offset: int) -> None:
        try:
            read_at(self._file, into, offset)
        except EOFError:
            raise damage(self.path, offset, "the file ends before its rows do") from None
        except OSError as error:
            raise failure("read", self.path, error) from error
