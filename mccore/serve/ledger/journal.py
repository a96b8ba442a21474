"""The file of a conversation: what was said, one record a line, added to and never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mccore.errors import RunError
from mccore.host.files import disk_hint
from mccore.host.json_file import BadJson, parse_json
from mccore.host.regular import regular_descriptor

FILE = "conversation.jsonl"
MOST_BYTES = 2**30  # of a journal that is read

Record = dict[str, Any]


def append_records(directory: Path, records: Sequence[Record]) -> None:
    """Add records to a conversation's journal, and have them on disk. The directory and the file are their owner's alone.

    What a process left in the middle of a line is cut away first. Raises RunError where they can't be written; then none of them
    is there.
    """
    data = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
    path = directory / FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = _length_of_lines(file)
            try:
                _write_at(file, data, end)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}", hint=disk_hint(error, "try again")) from error


def _length_of_lines(file: int) -> int:
    """The length of the whole lines of a file."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end:
        start = max(0, end - 2**16)
        piece = os.pread(file, end - start, start)
        if (at := piece.rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0


def _write_at(file: int, data: bytes, at: int) -> None:
    os.ftruncate(file, at)
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def read_records(directory: Path) -> Iterator[Record]:
    """The records of a conversation's journal, oldest first. What isn't a record, as a crash leaves it, is passed over.

    Raises OSError where there is none.
    """
    with os.fdopen(regular_descriptor(directory / FILE), "rb") as file:
        for line in file:
            try:
                record = parse_json(line)
            except BadJson:
                continue
            if isinstance(record, dict) and isinstance(record.get("type"), str):
                yield record
