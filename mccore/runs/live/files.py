"""The events of a run's files, piece by piece and in the order in which they happened.

`fetch` does what may block (system calls) and may run in a thread. `digest` does what takes the processor, a few milliseconds
a call: between two calls a screen can answer a key.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from mccore.events import Event
from mccore.host.regular import regular_descriptor

PIECE_BYTES = 1 << 16  # of each file at a time: about 200 steps
LINE_BYTES = 1 << 24  # a longer line isn't read


@dataclass
class _File:
    """One event file and how far it has been read."""

    name: str
    offset: int
    torn: bool  # the offset may lie within a line, which is then passed over
    identity: tuple[int, int] = (0, 0)  # device and inode: another file may take the name
    waiting: deque[Event] = field(default_factory=deque)  # read, but other files may have earlier ones
    until: float = 0.0  # time of the newest event that was read
    more: bool = False  # there is more to read


@dataclass(frozen=True)
class WholeLines:
    """Whole lines of a file."""

    file: _File
    lines: bytes
    damaged: int = 0


class EventFiles:
    """Follows the files of one directory: growth, truncation, files that are replaced. `last` leaves out all but so many bytes
    at the end of those that are there when it begins."""

    def __init__(self, directory: Path, last: int | None = None) -> None:
        self.directory = directory
        self.skipped = 0  # lines that aren't events
        self.problem = ""  # why something can't be read
        self.cut = False  # whether something was left out
        self._last = last
        self._files: dict[str, _File] = {}

    def fetch(self) -> list[WholeLines]:
        """Read a piece of every file that has more and of which nothing waits."""
        pieces, self.problem = [], ""
        try:
            paths = sorted(self.directory.glob("*.jsonl"))
        except OSError as error:
            self.problem = f"can't read {self.directory}: {error.strerror}"
            return []
        for file in self._files.values():
            file.more = file.more and (self.directory / file.name).exists()  # nothing waits for what is gone
        for path in paths:
            try:
                fd = regular_descriptor(path)
            except OSError as error:
                self.problem = f"can't read {path}: {error.strerror}"
                continue
            try:
                piece = self._fetch(path.name, fd)
            except OSError as error:
                self.problem = f"can't read {path}: {error.strerror}"
                continue
            finally:
                os.close(fd)
            if piece is not None:
                pieces.append(piece)
        self._last = None if paths else self._last
        return pieces

    def digest(self, pieces: Sequence[WholeLines]) -> list[Event]:
        """Events that no file has an earlier one to, by time."""
        for piece in pieces:
            self.skipped += piece.damaged
            for line in piece.lines.split(b"\n"):
                if not line.strip():
                    continue
                try:
                    event = Event.from_json(line)
                except (ValueError, RecursionError):
                    self.skipped += 1
                    continue
                piece.file.waiting.append(event)
                piece.file.until = max(piece.file.until, event.time)
        horizon = min((file.until for file in self._files.values() if file.more), default=None)
        ready: list[Event] = []
        for file in self._files.values():
            while file.waiting and (horizon is None or file.waiting[0].time <= horizon):
                ready.append(file.waiting.popleft())
        ready.sort(key=attrgetter("time"))
        return ready

    def beyond(self, other: EventFiles) -> bool:
        """Whether everything that `other` has read was read here as well."""
        return all(
            (own := self._files.get(name)) is not None and own.offset >= file.offset and not own.waiting
            for name, file in other._files.items()
        )

    def _fetch(self, name: str, fd: int) -> WholeLines | None:
        stat = os.fstat(fd)
        size, identity = stat.st_size, (stat.st_dev, stat.st_ino)
        file = self._files.get(name)
        if file is None:
            start = max(0, size - self._last) if self._last is not None else 0
            file = self._files[name] = _File(name, start, start > 0, identity)
            self.cut = self.cut or start > 0
        elif size < file.offset or identity != file.identity:
            file.offset, file.torn, file.identity, file.until = 0, False, identity, 0.0
        if file.waiting:
            return None
        file.more = False
        if size == file.offset:
            return None
        chunk = os.pread(fd, PIECE_BYTES, file.offset)
        if len(chunk) == PIECE_BYTES and b"\n" not in chunk:
            chunk = os.pread(fd, LINE_BYTES, file.offset)
            if len(chunk) == LINE_BYTES and b"\n" not in chunk:  # no line of ours is so long
                file.offset, file.more = file.offset + len(chunk), True
                return WholeLines(file, b"", damaged=1)
        end = chunk.rfind(b"\n") + 1
        file.offset += end
        file.more = end > 0 and file.offset < size
        begin = 0
        if file.torn and end:
            begin, file.torn = chunk.find(b"\n") + 1, False
        return WholeLines(file, chunk[begin:end]) if end else None
