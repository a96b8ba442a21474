"""The ends of a run's stage logs, as they grow."""

from __future__ import annotations

import os

from mccore.host.regular import regular_descriptor
from mccore.runs.rundir import RunDir

FIRST_BYTES = 32 * 1024  # of a log that is already there
PIECE_BYTES = 64 * 1024
LINE_CHARACTERS = 2000


class LogTail:
    """New lines of all logs of a run, in the order of the files."""

    def __init__(self, run: RunDir) -> None:
        self._folder = run.log_path("x").parent
        self._offsets: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}

    def poll(self) -> list[str]:
        """Lines that were added since the last call; the first call gives the end of what is there."""
        lines: list[str] = []
        try:
            files = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        except OSError:
            return []
        for path in files:
            try:
                fd = regular_descriptor(path)
            except OSError:
                continue
            try:
                lines += self._read(path.stem, fd, many=len(files) > 1)
            except OSError:
                continue
            finally:
                os.close(fd)
        return lines

    def _read(self, name: str, fd: int, *, many: bool) -> list[str]:
        size = os.fstat(fd).st_size
        if name not in self._offsets:
            self._offsets[name] = max(0, size - FIRST_BYTES)
        if size < self._offsets[name]:  # begun anew
            self._offsets[name], self._rest[name] = 0, b""
        chunk = os.pread(fd, PIECE_BYTES, self._offsets[name])
        self._offsets[name] += len(chunk)
        whole, newline, rest = (self._rest.get(name, b"") + chunk).rpartition(b"\n")
        self._rest[name] = rest[-PIECE_BYTES:]
        if not newline:
            return []
        prefix = f"{name}: " if many else ""
        # A progress bar writes over its line: only what it ended with counts.
        texts = (line.rsplit(b"\r", 1)[-1].decode("utf-8", "replace") for line in whole.split(b"\n"))
        return [prefix + text[:LINE_CHARACTERS] for text in texts]
