"""Events that couldn't be sent, in a file of the run's directory, each with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mccore.api import parse_json
from mccore.events import Event


class DeadLetters:
    """Appends events to `path`, a line each, until the file has `limit_bytes`. Never raises: it is the last resort.

    What it couldn't take is counted in `missing`. The run's own event file has these events too.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.kept = 0
        self.missing = 0
        self.trouble = ""

    def add(self, events: Iterable[Event], reason: str) -> None:
        """Keep events that weren't delivered because of `reason`."""
        lines = [_line(event, reason) for event in events]
        if not lines:
            return
        try:
            kept = self._append(lines)
        except OSError as error:
            kept = 0
            self.trouble = error.strerror or str(error)
        self.kept += kept
        self.missing += len(lines) - kept

    def describe(self) -> str:
        """Where the events are that weren't delivered."""
        said = [f"{self.kept} of them are in {self.path}"] if self.kept else []
        if self.missing:
            said.append(f"{self.missing} are in the run's event file only ({self.trouble})")
        return "; ".join(said)

    def _append(self, lines: list[bytes]) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = _end_torn_line(descriptor)
            kept = 0
            for line in lines:
                if size + len(line) > self.limit_bytes:
                    self.trouble = f"the file is full at {self.limit_bytes:,} bytes"
                    break
                try:
                    written = os.write(descriptor, line)
                except OSError as error:
                    self.trouble = error.strerror or str(error)
                    break
                if written < len(line):  # the disk filled up within the line
                    os.ftruncate(descriptor, size)
                    self.trouble = "No space left on device"
                    break
                size += len(line)
                kept += 1
            return kept
        finally:
            os.close(descriptor)


def read_dead_letters(path: Path) -> Iterator[tuple[Event, str]]:
    """The events of such a file with their reasons, oldest first. Lines torn by a crash are passed over."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                record = parse_json(line)
                event = Event.from_json(json.dumps(record["event"]))
            except (ValueError, KeyError, TypeError):
                continue
            yield event, str(record.get("reason", ""))


def _line(event: Event, reason: str) -> bytes:
    text = f'{{"reason":{json.dumps(reason)},"event":{event.to_json()}}}\n'
    return text.encode("utf-8", "backslashreplace")


def _end_torn_line(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        size += os.write(descriptor, b"\n")
    return size
