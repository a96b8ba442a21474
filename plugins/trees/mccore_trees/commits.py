"""The commit record of a disk tree: how much of every level counts.

The record is kept twice, in two slots of one file, each with its own checksum. A commit writes one slot, waits for the disk,
and copies the record to the other; commits take turns in which slot comes first, so the slot being written is never the only
one that the disk is known to have. At any moment one of them is whole, and damage to either alone loses nothing.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from mccore_trees.files import damage, sync, write_at

_MAGIC = b"mcTreeC1"
_HEAD = struct.Struct("<8sQI")  # magic, sequence, levels
_LEVEL = struct.Struct("<QI")  # rows, checksum of the block that isn't full yet
_SUM = struct.Struct("<I")
_SLOT_BYTES = 4096  # a slot never shares a disk sector with the other
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


def write_commit(file: FileIO, commit: Commit, *, durable: bool) -> None:
    """Make a commit the one that counts; `durable` waits until the disk has it. Raises OSError."""
    slot = commit.encode().ljust(_SLOT_BYTES, b"\0")
    first = commit.sequence % 2 * _SLOT_BYTES
    write_at(file, slot, first)
    if durable:
        sync(file)
    write_at(file, slot, _SLOT_BYTES - first)


def read_commit(file: FileIO, path: Path) -> Commit:
    """The newest whole commit. Raises RunError when neither slot is whole, OSError."""
    file.seek(0)
    data = file.read(2 * _SLOT_BYTES) or b""
    commits = [Commit.decode(data[at : at + _SLOT_BYTES]) for at in (0, _SLOT_BYTES)]
    whole = [commit for commit in commits if commit is not None]
    if not whole:
        raise damage(path, 0, "neither copy of the commit record matches its checksum")
    return max(whole, key=lambda commit: commit.sequence)
