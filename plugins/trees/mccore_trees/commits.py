"""The commit record of a disk tree: how much of every level counts.

The record is kept twice, in two slots of one file, each with its own checksum. A commit writes the slot that doesn't hold the
newest record, waits for the disk, and then copies the record to the other. The slot being written is never the only one that
the disk is known to have: at any moment one of them is whole, and damage to either alone loses nothing.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mccore_trees.files import damage, open_file, sync, write_at

_MAGIC = b"mcTreeC1"
_HEAD = struct.Struct("<8sQI")  # magic, sequence, levels
_LEVEL = struct.Struct("<QI")  # rows, checksum of the block that isn't full yet
_SUM = struct.Struct("<I")
_SLOT_BYTES = 4096  # a slot never shares a disk sector with the other
_ATTEMPTS = 1000  # a reader may meet the writer in the middle of one slot, then of the other; not a thousand times over
MAX_LEVELS = (_SLOT_BYTES - _HEAD.size - _SUM.size) // _LEVEL.size


@dataclass(frozen=True)
class LevelCommit:
    """Rows of a level that count, and the CRC-32 of the bytes in its last, partly filled block."""

    rows: int
    tail_sum: int


@dataclass(frozen=True)
class Commit:
    """The state of all levels at one flush."""

    sequence: int
    levels: tuple[LevelCommit, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """The length of every level."""
        return tuple(level.rows for level in self.levels)

    def encode(self) -> bytes:
        """The bytes of a slot, without the zeros behind them."""
        head = _HEAD.pack(_MAGIC, self.sequence, len(self.levels))
        body = head + b"".join(_LEVEL.pack(level.rows, level.tail_sum) for level in self.levels)
        return body + _SUM.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, slot: bytes) -> Commit | None:
        """The commit in a slot, None when the slot isn't whole."""
        if len(slot) < _HEAD.size:
            return None
        magic, sequence, levels = _HEAD.unpack_from(slot)
        end = _HEAD.size + levels * _LEVEL.size
        if magic != _MAGIC or end + _SUM.size > len(slot) or _SUM.unpack_from(slot, end)[0] != zlib.crc32(slot[:end]):
            return None
        return cls(
            sequence, tuple(LevelCommit(*_LEVEL.unpack_from(slot, at)) for at in range(_HEAD.size, end, _LEVEL.size))
        )


class CommitFile:
    """The file of the two slots. `commit` is the newest whole one; `agree` whether both slots hold it.

    Raises RunError when neither slot is whole, OSError.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self._file = open_file(path, read_only=read_only)
        self._read_only = read_only
        self.reread()

    @staticmethod
    def create(path: Path, levels: int) -> None:
        """Write the record of an empty tree. Raises OSError."""
        empty = Commit(0, (LevelCommit(0, 0),) * levels).encode().ljust(_SLOT_BYTES, b"\0")
        with open_file(path) as file:
            write_at(file, 2 * empty, 0)
            sync(file)

    def reread(self) -> None:
        """Take over what is in the file now. A writer in another process may be at work on it."""
        for _ in range(_ATTEMPTS if self._read_only else 1):
            self._file.seek(0)
            data = self._file.read(2 * _SLOT_BYTES) or b""
            slots = [Commit.decode(data[at : at + _SLOT_BYTES]) for at in (0, _SLOT_BYTES)]
            whole = [(commit.sequence, slot) for slot, commit in enumerate(slots) if commit is not None]
            if whole:
                self._newest = max(whole)[1]
                newest = slots[self._newest]
                assert newest is not None
                self.commit = newest
                self.agree = slots[0] == slots[1]
                return
        raise damage(self.path, 0, "neither copy of the commit record matches its checksum")

    def write(self, levels: tuple[LevelCommit, ...], *, durable: bool) -> None:
        """Make a commit the one that counts; `durable` waits until the disk has it. Raises OSError, and then it or
        the one before counts: the writer can't know how far a failed call came."""
        commit = Commit(self.commit.sequence + 1, levels)
        slot = commit.encode().ljust(_SLOT_BYTES, b"\0")
        older = 1 - self._newest
        write_at(self._file, slot, older * _SLOT_BYTES)
        if durable:
            sync(self._file)
        self.commit, self._newest = commit, older
        with suppress(OSError):  # the commit is made; without its copy it is only less safe from rot
            write_at(self._file, slot, (1 - older) * _SLOT_BYTES)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
