"""Follow a run by its directory: every rank's event file and the launcher's, as they grow.

A long history is read from its end first, so that the present is there at once. The rest is read piece by piece, and the
curves fill from their beginning.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mccore.errors import MccoreError
from mccore.events import Event
from mccore.runs.rundir import Outcome, RunDir
from mccore.runs.state import RunState

TAIL_BYTES = 1 << 18  # of each file, for the first picture
PIECE_BYTES = 1 << 18  # of each file at a time
LINE_BYTES = 1 << 24  # a longer line isn't read
OUTCOME_SECONDS = 1.0  # between two looks at locks and results


@dataclass
class _File:
    """One event file and how far it has been read."""

    path: Path
    offset: int = 0
    identity: tuple[int, int] | None = None  # device and inode: another file may take the name


@dataclass
class RunWatch:
    """The state of one run, kept up by `poll`. A directory that is missing, unreadable or damaged is a state as well."""

    run: RunDir
    state: RunState = field(default_factory=RunState)
    skipped: int = 0  # lines that aren't events
    problem: str = ""  # why nothing can be read
    catching_up: bool = False
    outcome: Outcome = field(default_factory=lambda: Outcome("created"))
    _files: dict[str, _File] = field(default_factory=dict)
    _history: RunState | None = None  # read from the beginning, while `state` shows the end
    _end: dict[str, int] = field(default_factory=dict)  # where the end began, by file
    _looked: float = 0.0

    def open(self) -> None:
        """Take the first picture: all of a short history, the end of a long one."""
        sizes = {path.name: size for path, size in self._sizes()}
        if all(size <= TAIL_BYTES for size in sizes.values()):
            self.poll()
            return
        self._history, self.catching_up = RunState(), True
        events: list[Event] = []
        for path, size in self._sizes():
            start = max(0, size - TAIL_BYTES)
            self._end[path.name] = start
            chunk, _ = _read(path, start, size - start)
            events += self._parse(chunk[chunk.find(b"\n") + 1 :] if start else chunk, count=False)
            self._end[path.name] = size
        # What a run began with lies before its end.
        for kind in ("run.start", "stage.start"):
            for name in sizes:
                first = self.run.last_event(kind, name)
                if first is not None and all(first.time < event.time for event in events[:1]):
                    events.insert(0, first)
        for event in sorted(events, key=lambda event: event.time):
            self.state.take(event)
        self._look()

    def poll(self, seconds: float = 0.02) -> bool:
        """Read on for about this long; says whether anything changed."""
        deadline = time.monotonic() + seconds
        moved = False
        while True:
            events = self._next()
            target = self._history if self._history is not None else self.state
            for event in events:
                target.take(event)
            moved = moved or bool(events)
            if self._history is not None and not self._behind():
                self.state, self._history, self.catching_up = self._history, None, False
                moved = True
            if not events or time.monotonic() >= deadline:
                break
        return self._look() or moved

    def to_json(self) -> dict[str, Any]:
        """The picture as plain data, for scripts."""
        return {
            "run": self.run.name,
            "path": str(self.run.path),
            "state": self.outcome.state,
            "why": self.outcome.message,
            "problem": self.problem,
            "skipped_lines": self.skipped,
            **self.state.to_json(),
        }

    # --- files --------------------------------------------------------------------------------------------------------

    def _sizes(self) -> list[tuple[Path, int]]:
        try:
            found = [(path, path.stat().st_size) for path in sorted(self.run.events_dir.glob("*.jsonl"))]
        except OSError as error:
            self.problem = f"can't read {self.run.events_dir}: {error.strerror}"
            return []
        self.problem = "" if self.run.path.is_dir() else f"{self.run.path} is gone"
        return found

    def _next(self) -> list[Event]:
        """The next piece of every file, by time."""
        events: list[Event] = []
        for path, size in self._sizes():
            file = self._files.setdefault(path.name, _File(path))
            try:
                stat = path.stat()
            except OSError:
                continue
            identity = (stat.st_dev, stat.st_ino)
            if size < file.offset or (file.identity is not None and identity != file.identity):
                file.offset = 0  # truncated, or another file took its place
            file.identity = identity
            if size == file.offset:
                continue
            chunk, why = _read(path, file.offset, PIECE_BYTES)
            if why:
                self.problem = why
            end = chunk.rfind(b"\n") + 1
            if not end and len(chunk) == PIECE_BYTES:
                chunk, _ = _read(path, file.offset, LINE_BYTES)
                end = chunk.rfind(b"\n") + 1
                if not end and len(chunk) == LINE_BYTES:  # no line of ours is so long
                    file.offset += len(chunk)
                    self.skipped += 1
                    continue
            file.offset += end
            events += self._parse(chunk[:end])
        return sorted(events, key=lambda event: event.time)

    def _behind(self) -> bool:
        return any(self._files[name].offset < stop for name, stop in self._end.items() if name in self._files) or any(
            name not in self._files for name in self._end
        )

    def _parse(self, chunk: bytes, *, count: bool = True) -> list[Event]:
        events = []
        for line in chunk.splitlines():
            if not line.strip():
                continue
            try:
                events.append(Event.from_json(line))
            except (ValueError, TypeError, RecursionError):
                self.skipped += count
        return events

    def _look(self) -> bool:
        """Look at the locks and results now and then: they say what became of a run that ended without a word."""
        now = time.monotonic()
        if now - self._looked < OUTCOME_SECONDS:
            return False
        self._looked = now
        before = (self.outcome, self.problem)
        try:
            self.outcome = self.run.outcome()
        except (MccoreError, OSError) as error:
            self.problem = getattr(error, "message", None) or str(error)
        return (self.outcome, self.problem) != before


def _read(path: Path, start: int, count: int) -> tuple[bytes, str]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        return b"", f"can't read {path}: {error.strerror}"
    try:
        return os.pread(fd, count, start), ""
    except OSError as error:
        return b"", f"can't read {path}: {error.strerror}"
    finally:
        os.close(fd)
