"""The logs of a run as one text: stages one after another, all ranks in each, read by piece however long they are.

Nothing but the lines that are asked for is held. A place is a file and a byte in it, so that what is shown stays where it is
while the end grows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from mccore.host.regular import regular_descriptor
from mccore.runs.rundir import RunDir

Level = Literal["", "warning", "error"]
LEVELS: tuple[Level, ...] = ("", "warning", "error")

FEW_BYTES = 1 << 15  # read at once where every line is wanted
PIECE_BYTES = 1 << 16  # read at once in a search
LINE_BYTES = 1 << 14  # a longer line comes in parts of this many bytes
SCAN_BYTES = 1 << 19  # looked at by one call, so that a screen stays awake

# torchrun and torch begin lines with the rank and a letter for the level: `[rank1]:[W1130 12:00:00.1 ...`.
_RANK = re.compile(rb"\[rank(\d{1,6})\]:")
_ERRORS = (
    rb"^(?:\[rank\d+\]:)?\s*(?:\[?[EF]\d{4} |Traceback \(most recent|File \"[^\"\n]*\", line \d+|[\w.]*(?:error|exception)\b)"
    rb"|\b(?:error|fatal|critical)\b\s*[:\]]"
)
_WARNINGS = rb"^(?:\[rank\d+\]:)?\s*\[?W\d{4} |warn(?:ing)?\b\s*[:\]]"
_ERROR = re.compile(_ERRORS, re.IGNORECASE)
_WARNING_OR_ERROR = re.compile(_WARNINGS + rb"|" + _ERRORS, re.IGNORECASE)
_ANY_RANK = re.compile(rb"^\[rank\d{1,6}\]:", re.MULTILINE)
# What every line of a level has in it, in lower case: a gigabyte is searched for these, and only lines that have one are judged.
_ERROR_WORDS = (b"error", b"exception", b"fatal", b"critical", b"traceback", b'file "', b"[e", b"[f", b"\ne", b"\nf")
_WARNING_WORDS = (*_ERROR_WORDS, b"warn", b"[w", b"\nw")


class LogPlace(NamedTuple):
    """A byte of one of the files, by its position in `LogBook.files`. Places are in order."""

    file: int
    offset: int


@dataclass(frozen=True)
class LogLine:
    """One line: where it begins, where the next one does, the stage, and its bytes without the line's end."""

    start: LogPlace
    stop: LogPlace
    stage: str
    data: bytes

    @property
    def text(self) -> str:
        """What the line ended with: a progress bar writes over itself. Control characters are in it."""
        return self.data.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")

    @property
    def level(self) -> Level:
        """`error`, `warning` or nothing, by the words that programs use for it."""
        if _ERROR.search(self.data):
            return "error"
        return "warning" if _WARNING_OR_ERROR.search(self.data) else ""

    @property
    def rank(self) -> int | None:
        """The rank that a line names, None for one that names none."""
        found = _RANK.match(self.data)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted: from a level on, of one stage, of one rank, with a text in them, whatever its case."""

    level: Level = ""
    stage: str = ""
    rank: int | None = None
    text: str = ""

    def tests(self) -> list[_Test]:
        """What a line has to pass; nothing when every line is wanted."""
        found = []
        if self.text:
            found.append(_Test((self.text.lower().encode("utf-8", "replace"),)))
        if self.rank is not None:
            found.append(_Test((b"[rank%d]:" % self.rank,), re.compile(rb"\[rank%d\]:" % self.rank)))
        if self.level == "error":
            found.append(_Test(_ERROR_WORDS, _ERROR))
        if self.level == "warning":
            found.append(_Test(_WARNING_WORDS, _WARNING_OR_ERROR))
        return found


@dataclass(frozen=True)
class _Test:
    """One of these words, in lower case, is in the line, and the pattern is found in it."""

    words: tuple[bytes, ...]
    pattern: re.Pattern[bytes] | None = None

    def passes(self, data: bytes) -> bool:
        if self.pattern is not None:
            return self.pattern.search(data) is not None
        lowered = data.lower()
        return any(word in lowered for word in self.words)


class _Candidates:
    """Where in a piece the next line is that may pass a test."""

    def __init__(self, chunk: bytes, words: tuple[bytes, ...]) -> None:
        self._text = b"\n" + chunk.lower()  # a word may begin with the end of the line before
        self._next = dict.fromkeys(words, -1)

    def after(self, at: int) -> int | None:
        """The first byte at or behind `at` of the chunk that belongs to a word, None when there is none."""
        for word, found in list(self._next.items()):
            if found < at:
                found = self._text.find(word, at)
                if found < 0:
                    del self._next[word]
                else:
                    self._next[word] = found
        return min(self._next.values(), default=None)


@dataclass
class LogPart:
    """Lines that were found, oldest first, and the place up to which everything was looked at."""

    lines: list[LogLine]
    reached: LogPlace
    done: bool  # nothing is left in that direction


ALL = Wanted()


@dataclass
class LogBook:
    """The logs of a run. `refresh` looks what has grown; a file that became shorter begins anew."""

    run: RunDir
    files: list[Path] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    problem: str = ""

    def refresh(self) -> bool:
        """Look again; whether anything changed. A file that can't be read is a problem to show, not an error."""
        folder = self.run.log_path("x").parent
        before = (list(self.files), list(self.sizes), self.problem)
        self.problem = "" if folder.is_dir() else f"there are no logs in {self.run.path}"
        found = {}
        for path in folder.glob("*.log"):
            try:
                status = path.stat()
            except OSError as error:
                self.problem = f"can't read {path}: {error.strerror}"
                continue
            if path.is_file():
                found[path] = (status.st_size, status.st_mtime)
        # Known files keep their position, so that places stay true; new ones come behind in the order they were written.
        self.files += sorted(
            (path for path in found if path not in self.files), key=lambda path: (found[path][1], path)
        )
        self.sizes = [found[path][0] if path in found else 0 for path in self.files]
        return (self.files, self.sizes, self.problem) != before

    @property
    def stages(self) -> list[str]:
        """The names of the logs, in their order."""
        return [path.stem for path in self.files]

    @property
    def start(self) -> LogPlace:
        """The beginning of the first file."""
        return LogPlace(0, 0)

    @property
    def end(self) -> LogPlace:
        """The end of the last file."""
        return LogPlace(max(0, len(self.files) - 1), self.sizes[-1] if self.sizes else 0)

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes)

    def position(self, place: LogPlace) -> int:
        """Bytes before a place, over all files."""
        return sum(self.sizes[: place.file]) + place.offset

    def after(self, place: LogPlace, count: int, wanted: Wanted = ALL, scan: int = SCAN_BYTES) -> LogPart:
        """At most `count` wanted lines from `place` on; at most about `scan` bytes are looked at."""
        lines: list[LogLine] = []
        tests = wanted.tests()
        while place.file < len(self.files):
            if not wanted.stage or self.files[place.file].stem == wanted.stage:
                for offset, chunk in self._forward(place, PIECE_BYTES if tests else FEW_BYTES):
                    for line in self._lines(place.file, offset, chunk, tests):
                        lines.append(line)
                        if len(lines) >= count:
                            return LogPart(lines, line.stop, False)
                    place = LogPlace(place.file, offset + len(chunk))
                    scan -= len(chunk)
                    if scan <= 0:
                        return LogPart(lines, place, False)
            if place.file + 1 >= len(self.files):
                break
            place = LogPlace(place.file + 1, 0)
        return LogPart(lines, place, True)

    def before(self, place: LogPlace, count: int, wanted: Wanted = ALL, scan: int = SCAN_BYTES) -> LogPart:
        """At most `count` wanted lines that end at or before `place`; at most about `scan` bytes are looked at."""
        lines: list[LogLine] = []
        tests = wanted.tests()
        while place.file < len(self.files):
            if not wanted.stage or self.files[place.file].stem == wanted.stage:
                for offset, chunk in self._backward(place, PIECE_BYTES if tests else FEW_BYTES):
                    for line in reversed(list(self._lines(place.file, offset, chunk, tests))):
                        lines.append(line)
                        if len(lines) >= count:
                            return LogPart(lines[::-1], line.start, False)
                    place = LogPlace(place.file, offset)
                    scan -= len(chunk)
                    if scan <= 0:
                        return LogPart(lines[::-1], place, False)
            if place.file == 0:
                break
            place = LogPlace(place.file - 1, self.sizes[place.file - 1])
        return LogPart(lines[::-1], place, True)

    def ranks(self) -> list[int]:
        """The ranks that are named near the end of the logs."""
        chunk = self._read(self.end.file, max(0, self.end.offset - SCAN_BYTES), SCAN_BYTES) if self.files else b""
        return sorted({int(found[5:-2]) for found in _ANY_RANK.findall(chunk)})

    # --- reading ------------------------------------------------------------------------------------------------------

    def _forward(self, place: LogPlace, most: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of whole lines from a place on, each with its offset. What a file ends with counts as a line."""
        offset, size = place.offset, self.sizes[place.file]
        while offset < size:
            chunk = self._read(place.file, offset, min(most, size - offset))
            if not chunk:
                return
            end = chunk.rfind(b"\n") + 1
            if end and offset + len(chunk) < size:
                chunk = chunk[:end]
            yield offset, chunk
            offset += len(chunk)

    def _backward(self, place: LogPlace, most: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of whole lines before a place, the last one first, each with its offset."""
        stop = min(place.offset, self.sizes[place.file])
        while stop > 0:
            first = max(0, stop - most)
            chunk = self._read(place.file, first, stop - first)
            if len(chunk) < stop - first:  # cut shorter just now
                return
            cut = chunk.find(b"\n", 0, len(chunk) - 1) + 1 if first else 0
            yield first + cut, chunk[cut:]
            stop = first + cut

    def _lines(self, file: int, offset: int, chunk: bytes, tests: list[_Test]) -> Iterator[LogLine]:
        candidates = _Candidates(chunk, tests[0].words) if tests else None
        at = 0
        while at < len(chunk):
            if candidates is not None:
                found = candidates.after(at)
                if found is None:
                    return
                at = max(at, chunk.rfind(b"\n", at, found) + 1)
            end = chunk.find(b"\n", at, at + LINE_BYTES) + 1
            stop = end or min(len(chunk), at + LINE_BYTES)
            data = chunk[at : stop - 1 if end else stop]
            if all(test.passes(data) for test in tests):
                yield LogLine(LogPlace(file, offset + at), LogPlace(file, offset + stop), self.files[file].stem, data)
            at = stop

    def _read(self, file: int, start: int, count: int) -> bytes:
        try:
            fd = regular_descriptor(self.files[file])
        except OSError as error:
            self.problem = f"can't read {self.files[file]}: {error.strerror}"
            return b""
        try:
            return os.pread(fd, count, start)
        except OSError as error:
            self.problem = f"can't read {self.files[file]}: {error.strerror}"
            return b""
        finally:
            os.close(fd)
