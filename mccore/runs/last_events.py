"""The newest event of a kind in a file, found from the file's end: a long history isn't parsed.

What was searched once isn't searched again: a file only grows, and a person who watches a run asks every second.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mccore.events import Event
from mccore.host.regular import regular_descriptor

BLOCK_BYTES = 1 << 20
LINE_BYTES = 1 << 26  # what is longer isn't an event of ours


@dataclass
class _Search:
    """How far a file was searched for an event, and which one was found."""

    identity: tuple[int, int]
    until: int = 0
    found: Event | None = None


class LastEvents:
    """Finds the newest events in the files of one directory, and remembers them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._searches: dict[tuple[str, str], _Search] = {}

    def find(self, kind: str, file: str) -> Event | None:
        """The last event of a type; `stage.*` stands for every type that begins so. None where there is none to read."""
        try:
            fd = regular_descriptor(self._directory / file)
        except OSError:  # not there, or not a file
            return None
        try:
            stat = os.fstat(fd)
            search = self._searches.get((kind, file))
            if search is None or search.identity != (stat.st_dev, stat.st_ino) or stat.st_size < search.until:
                search = _Search((stat.st_dev, stat.st_ino))
            for line in _lines_with(fd, f'"type":"{kind.removesuffix("*")}'.encode(), search.until, stat.st_size):
                with contextlib.suppress(ValueError):
                    event = Event.from_json(line)
                    if event.type == kind or (kind.endswith("*") and event.type.startswith(kind[:-1])):
                        search.found = event
                        break
            # A line that is still being written is looked at again.
            search.until = _end_of_lines(fd, search.until, stat.st_size)
            self._searches[kind, file] = search
            return search.found
        except OSError:
            return None
        finally:
            os.close(fd)


def _lines_with(fd: int, marker: bytes, start: int, stop: int) -> Iterator[bytes]:
    """Lines of `[start, stop)` of a file that have `marker`, the last one first."""
    rest = b""  # the beginning of a line whose end was read
    while stop > start:
        first = max(start, stop - BLOCK_BYTES)
        text = os.pread(fd, stop - first, first) + rest
        stop = first
        head = 0 if first == start else text.find(b"\n") + 1
        if head == 0 and first != start:
            rest = text if len(text) <= LINE_BYTES else b""
            continue
        rest = text[:head]
        at = len(text)
        while (at := text.rfind(marker, head, at)) >= 0:
            begin = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            yield text[begin : end if end >= 0 else len(text)]
            at = begin


def _end_of_lines(fd: int, start: int, stop: int) -> int:
    """Where the last whole line of `[start, stop)` ends; `start` where there is none."""
    while stop > start:
        first = max(start, stop - BLOCK_BYTES)
        end = os.pread(fd, stop - first, first).rfind(b"\n")
        if end >= 0:
            return first + end + 1
        stop = first
    return start
