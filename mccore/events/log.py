"""Events: what a run writes as it happens; the types in `event_types` and the metrics in `metrics` are what readers share.

A run's flight recorder is `events/rank<N>.jsonl`: one JSON object a line, appended from the first second, readable while it
is written and after a crash. `EventWriter` writes it, `EventTail` follows it; the console, the report, the monitor and
telemetry providers read nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mccore.errors import RunError
from mccore.events.event import Event, check_event
from mccore.host.files import disk_hint
from mccore.host.regular import regular_descriptor

_RESERVE_BYTES = 64 * 1024

_LONGEST_LINE = 64 * 2**20  # bytes of an event; a longer one isn't ours


class EventWriter:
    """Appends events to one JSONL file, a whole line per system call, so that a crash loses at most the line being written.

    A reserve of 64 KiB is kept beside the file: when the disk is full it is given up, so that the run can still record
    why it ends. Raises RunError when even that doesn't help.
    """

    def __init__(self, path: Path, *, rank: int = 0) -> None:
        self.path = path
        self.rank = rank
        self._reserve = path.with_name(f".{path.name}.reserve")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._keep_reserve()
            self._end_torn_line()
        except OSError as error:
            raise RunError(f"can't write events to {path}: {error.strerror}", hint=disk_hint(error)) from error

    def write(self, event: Event, *, durable: bool = False) -> None:
        """Append one event; `durable` waits until it is on disk. Raises ValueError for an event outside the schema."""
        check_event(event)
        line = event.to_bytes() + b"\n"
        try:
            try:
                self._append(line)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._give_up_reserve():
                    raise
                self._append(line)
            if durable:
                os.fsync(self._fd)
        except OSError as error:
            raise RunError(f"can't write events to {self.path}: {error.strerror}", hint=disk_hint(error)) from error

    def emit(self, type: str, *, durable: bool = False, **fields: Any) -> Event:
        """Write an event that happens now and return it. `fields` are its metrics, stage, step and tokens; the rest is data."""
        known = {name: fields.pop(name) for name in ("metrics", "stage", "step", "tokens") if name in fields}
        event = Event.now(type, data=fields, rank=self.rank, **known)
        self.write(event, durable=durable)
        return event

    def close(self) -> None:
        """Close the file. The reserve goes with the last writer."""
        os.close(self._fd)
        self._reserve.unlink(missing_ok=True)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        written = os.write(self._fd, line)
        if written < len(line):  # the disk filled up in the middle of the line: finish it or end it as torn
            try:
                os.write(self._fd, line[written:])
            except OSError:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise

    def _keep_reserve(self) -> None:
        with open(self._reserve, "wb") as reserve:
            reserve.write(b"\0" * _RESERVE_BYTES)

    def _give_up_reserve(self) -> bool:
        existed = self._reserve.exists()
        self._reserve.unlink(missing_ok=True)
        return existed

    def _end_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


class EventTail:
    """Follows the event files of a run: each `poll` returns what was added since the last, oldest first.

    Lines that aren't events (a line torn by a crash, a foreign file) are counted in `skipped` and passed over; a line that
    is still being written is left for the next poll. `offsets` are the bytes of each file that are passed over.
    """

    def __init__(
        self, directory: Path, *, chunk_bytes: int = 1 << 22, offsets: Mapping[str, int] | None = None
    ) -> None:
        self.directory = directory
        self.skipped = 0
        self._chunk_bytes = chunk_bytes
        self._offsets: dict[str, int] = dict(offsets or {})
        self._moved = False

    @property
    def offsets(self) -> dict[str, int]:
        """How far each file has been read, in bytes."""
        return dict(self._offsets)

    def skip(self) -> None:
        """Pass over everything there is now: only what comes after is returned."""
        for path in self.directory.glob("*.jsonl"):
            with contextlib.suppress(OSError):
                self._offsets[path.name] = path.stat().st_size

    def poll(self) -> list[Event]:
        """New events of all files, by time. At most one chunk per file, so that a long history comes in pieces."""
        events: list[Event] = []
        self._moved = False
        for path in sorted(self.directory.glob("*.jsonl")):
            events.extend(self._read(path))
        return sorted(events, key=lambda event: event.time)

    def drain(self) -> Iterator[Event]:
        """All events there are now, piece by piece."""
        self._moved = True
        while self._moved:  # a chunk may hold nothing but lines that aren't events
            yield from self.poll()

    def _read(self, path: Path) -> Iterator[Event]:
        offset = self._offsets.get(path.name, 0)
        try:
            with open(regular_descriptor(path), "rb") as file:
                if os.fstat(file.fileno()).st_size < offset:  # replaced by a shorter file: start over
                    offset = 0
                file.seek(offset)
                chunk = file.read(self._chunk_bytes)
                if chunk and b"\n" not in chunk:  # one line longer than a chunk
                    chunk += file.readline(_LONGEST_LINE)
                    if len(chunk) > _LONGEST_LINE:  # never one of ours: passed over piece by piece
                        self._offsets[path.name] = offset + len(chunk)
                        self._moved = True
                        self.skipped += 1
                        return
        except OSError:  # not there yet, not a file, or not for us to read
            return
        end = chunk.rfind(b"\n") + 1
        self._offsets[path.name] = offset + end
        self._moved = self._moved or end > 0
        for line in chunk[:end].splitlines():
            if not line.strip():
                continue
            try:
                yield Event.from_json(line)
            except ValueError:
                self.skipped += 1


def read_events(directory: Path) -> list[Event]:
    """Every event of a run's `events` directory, oldest first."""
    return sorted(EventTail(directory).drain(), key=lambda event: event.time)


def last_metrics(events: Iterable[Event]) -> dict[str, float]:
    """The newest value of every metric by its name in METRICS."""
    values: dict[str, float] = {}
    for event in events:
        values.update(event.metrics)
    return values
