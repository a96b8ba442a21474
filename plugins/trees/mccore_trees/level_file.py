"""One level of a disk tree: rows end to end in a file, cut back to the last commit when opened, and a CRC-32 per 64 KiB."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.api import TreeDamage
from mccore.errors import RunError
from mccore_trees.commits import LevelCommit
from mccore_trees.files import damage, failure, open_file, read_at, read_up_to, sync, write_at
from mccore_trees.rows import RowType

BLOCK_BYTES = 1 << 16
_MAP_BYTES = 1 << 20  # rows behind the map are read by a call until they are worth a new map


def level_paths(directory: Path, level: int) -> tuple[Path, Path]:
    """The files of a level: its rows and their checksums."""
    return directory / f"level-{level}.rows", directory / f"level-{level}.sums"


class LevelFile:
    """Append-only rows with checksums. Rows count once the disk has what `write_sums` gave and a record of `commit`.

    Opening cuts off what was never committed and checks the last block against the commit; earlier blocks are checked by
    `damage`. With `read_only` nothing is cut off, with `salvage` nothing is checked either. Raises RunError for damage, for a
    full disk and for every other refusal of the file system.
    """

    def __init__(
        self, directory: Path, rows: RowType, committed: LevelCommit, *, read_only: bool = False, salvage: bool = False
    ) -> None:
        self.path, self._sums_path = level_paths(directory, rows.level)
        self._type = rows
        self._salvage = salvage
        self._synced_length = -1  # whoever wrote these rows may not have waited for the disk
        self._unsynced_sums = True
        self._pending: list[int] = []  # sums of blocks that filled up since the last commit
        self._map = rows.empty(0)
        self.length, self._tail_sum = committed.rows, committed.tail_sum
        self._committed_blocks = self._bytes // BLOCK_BYTES
        try:
            self._file = open_file(self.path, read_only=read_only)
            self._sums = open_file(self._sums_path, read_only=read_only)
            if not salvage:
                self._check_sizes(cut_back=not read_only)
        except OSError as error:
            raise failure("open", self.path, error) from error
        if not salvage:
            self._check_tail()

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
        behind = max(stop - len(self._map), stop - start) * row_bytes
        worth = min(
            _MAP_BYTES, max(BLOCK_BYTES, self._map.nbytes)
        )  # a short level is mapped anew as often as it doubles
        if (
            stop > len(self._map) and behind >= worth and not self._salvage
        ):  # in salvage the file may be too short to map
            mapped = mmap.mmap(self._file.fileno(), self._bytes, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(mapped, dtype=self._type.dtype).reshape(-1, *self._type.shape)
        if stop <= len(self._map):
            return self._map[start:stop]
        rows = self._type.empty(stop - start)
        self._read_bytes(rows.reshape(-1).view(np.uint8).data, start * row_bytes)
        rows.flags.writeable = False
        return rows

    @property
    def commit(self) -> LevelCommit:
        """What a commit record has to hold about this level."""
        return LevelCommit(self.length, self._tail_sum)

    def write_sums(self) -> list[FileIO]:
        """Complete the checksums. Gives the files that the disk needs before this level can be committed. Raises OSError."""
        new_sums = len(self._pending)
        if new_sums:
            write_at(self._sums, np.array(self._pending, dtype="<u4").tobytes(), 4 * self._committed_blocks)
            self._committed_blocks += new_sums
            self._unsynced_sums = True
            self._pending.clear()
        if self.length == self._synced_length:
            return []
        return [self._file, self._sums] if self._unsynced_sums else [self._file]

    def mark_synced(self) -> None:
        """Remember that the disk has all rows and their checksums."""
        self._synced_length = self.length
        self._unsynced_sums = False

    def refresh(self, committed: LevelCommit) -> None:
        """Show the rows that a writer has committed since. Raises RunError when they aren't these rows and more;
        then `show` goes back."""
        try:
            replaced = any(
                os.fstat(file.fileno()).st_ino != os.stat(path).st_ino
                for file, path in ((self._file, self.path), (self._sums, self._sums_path))
            )
            if replaced or committed.rows < self.length:
                raise RunError(
                    f"the tree in {self.path.parent} was cut by a repair since it was opened",
                    hint="open it again; what was read before it was cut can still be read here",
                )
            self.show(committed)
            self._check_sizes(cut_back=False)
            self._check_tail()
        except OSError as error:
            raise failure("read", self.path, error) from error

    def damage(self) -> Iterator[TreeDamage]:
        """Blocks that don't match their checksums, and all beyond the file's end as one. RunError where one can't be read."""
        try:
            stored = read_up_to(self._sums, 4 * self._committed_blocks, 0)
            sums = [*np.frombuffer(stored[: len(stored) // 4 * 4], dtype="<u4").tolist()]
            for block in range(self._committed_blocks + len(self._pending) + 1):
                start = block * BLOCK_BYTES
                stop = min(start + BLOCK_BYTES, self._bytes)
                data = read_up_to(self._file, stop - start, start)
                if len(data) < stop - start:  # a damaged header can claim terabytes: no row for each block of them
                    yield self._damaged(start, self._bytes, f"the file ends at byte {start + len(data)}")
                    return
                late = block - self._committed_blocks
                crc = [*self._pending, self._tail_sum][late] if late >= 0 else [*sums[block : block + 1], None][0]
                if crc is None:
                    yield self._damaged(start, stop, f"their checksum is missing in {self._sums_path.name}")
                elif zlib.crc32(data) != crc:
                    yield self._damaged(start, stop, "they don't match their checksum")
        except OSError as error:
            raise failure("read", self.path, error) from error

    def restore(self, start: int, rows: NDArray[Any]) -> bool:
        """Write rows over `[start, start + len(rows))`, and wait for the disk. Says whether every block now matches its checksum.

        A block that these rows cover takes a new checksum where it doesn't match; so does one at either end that did match
        before. A damaged block that they cover in part keeps the one that it has. Raises OSError.
        """
        self._type.check(rows)
        if not 0 <= start <= start + len(rows) <= self.length:
            raise IndexError(
                f"rows [{start}, {start + len(rows)}) of level {self._type.level}, which has {self.length}"
            )
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        begin, end = start * self._type.row_bytes, start * self._type.row_bytes + len(data)
        if begin == end:
            return True
        blocks = range(begin // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)
        trusted = {
            block
            for block in blocks
            if self._sum_of(block) == self._stored_sum(block)
            or (begin <= block * BLOCK_BYTES and min((block + 1) * BLOCK_BYTES, self._bytes) <= end)
        }
        write_at(self._file, data, begin)
        sync(self._file)
        exact = True
        for block in blocks:
            crc = self._sum_of(block)
            if crc == self._stored_sum(block):
                continue
            exact = False
            if block in trusted and crc is not None:
                if block == self._committed_blocks:
                    self._tail_sum = crc
                else:
                    write_at(self._sums, crc.to_bytes(4, "little"), 4 * block)
        sync(self._sums)
        return exact

    def write_prefix(self, length: int, rows: Path, sums: Path) -> LevelCommit:
        """Copy the first `length` rows and their checksums to new files, and wait for the disk. Raises OSError."""
        size = length * self._type.row_bytes
        whole, at = size // BLOCK_BYTES, 0
        new_sums = bytearray()
        with open_file(rows) as file, open_file(sums) as sums_file:
            while at < size:
                data = read_up_to(self._file, min(BLOCK_BYTES, size - at), at)
                if at + len(data) < min(at + BLOCK_BYTES, size):
                    raise damage(self.path, at + len(data), "it ends before the rows that are to be kept")
                write_at(file, data, at)
                tail = zlib.crc32(data)
                new_sums += tail.to_bytes(4, "little")
                at += len(data)
            write_at(sums_file, bytes(new_sums[: 4 * whole]), 0)
            sync(file)
            sync(sums_file)
        return LevelCommit(length, tail if size % BLOCK_BYTES else 0)

    def close(self) -> None:
        """Let go of the files. Views of the map stay readable."""
        self._file.close()
        self._sums.close()

    def show(self, committed: LevelCommit) -> None:
        """Count the rows of this commit, without a check."""
        self.length, self._tail_sum = committed.rows, committed.tail_sum
        self._committed_blocks = self._bytes // BLOCK_BYTES

    def _check_sizes(self, *, cut_back: bool) -> None:
        """Refuse files that lack committed bytes; drop what a process that died had written beyond its last commit."""
        for file, path, size in (
            (self._file, self.path, self._bytes),
            (self._sums, self._sums_path, 4 * self._committed_blocks),
        ):
            there = os.fstat(file.fileno()).st_size
            if there < size:
                raise damage(path, there, f"it ends there, and {size} bytes were committed")
            if there > size and cut_back:
                os.ftruncate(file.fileno(), size)

    def _check_tail(self) -> None:
        """Check the block that isn't full yet, the only one that a crash can have touched."""
        start = self._committed_blocks * BLOCK_BYTES
        data = bytearray(self._bytes - start)
        self._read_bytes(memoryview(data), start)
        if zlib.crc32(data) != self._tail_sum:
            raise damage(self.path, start, f"the {len(data)} bytes from there don't match their checksum")

    def _sum_of(self, block: int) -> int | None:
        """CRC-32 of what is stored of a block, None where some is missing."""
        start = block * BLOCK_BYTES
        size = min(BLOCK_BYTES, self._bytes - start)
        data = read_up_to(self._file, size, start)
        return zlib.crc32(data) if len(data) == size else None

    def _stored_sum(self, block: int) -> int | None:
        if block == self._committed_blocks:
            return self._tail_sum
        stored = read_up_to(self._sums, 4, 4 * block)
        return int.from_bytes(stored, "little") if len(stored) == 4 else -1

    def _damaged(self, first: int, stop: int, what: str) -> TreeDamage:
        row_bytes = self._type.row_bytes
        return TreeDamage(self._type.level, first // row_bytes, -(-stop // row_bytes), self.path, first, stop, what)

    def _read_bytes(self, into: memoryview, offset: int) -> None:
        try:
            read_at(self._file, into, offset)
        except EOFError:
            raise damage(self.path, offset, "the file ends before its rows do") from None
        except OSError as error:
            raise failure("read", self.path, error) from error
