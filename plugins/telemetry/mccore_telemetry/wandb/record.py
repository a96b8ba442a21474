"""What of a run W&B has: a file in the run's directory that every process of the run goes on from.

A row counts as sent when it is in W&B's own log beside the run (`offline-run-*` or `run-*`): that log is what is uploaded, at
once or later by `wandb sync`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mccore.api import parse_json, read_json, write_atomic

_READ_SECONDS = 600.0


@dataclass
class Attempt:
    """One start of the run, as W&B recorded it."""

    mode: str
    why: str
    directory: str
    """Where W&B's log is, from where the record is."""
    until: float = 0.0
    """Time of its newest event that is surely in W&B's log."""
    closed: bool = False


@dataclass
class Record:
    """The file `telemetry/wandb.json`: id and project of the W&B run, its attempts, and where its axes stand."""

    path: Path
    id: str
    project: str
    axes: dict[str, Any] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, id: str, project: str) -> Record:
        """What an earlier process wrote, or a new record."""
        try:
            before = read_json(path)
            attempts = [Attempt(**attempt) for attempt in before["attempts"]]
            return cls(path, str(before["id"]), str(before["project"]), dict(before["axes"]), attempts)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path, id, project)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        record = asdict(self)
        del record["path"]
        write_atomic(self.path, json.dumps(record, indent=1) + "\n")

    def sent_until(self) -> float:
        """Time of the newest event that W&B has. The log of a process that was killed is read for it."""
        newest = 0.0
        for attempt in self.attempts:
            newest = max(newest, attempt.until if attempt.closed else max(attempt.until, self.last_row(attempt)))
        return newest

    def last_row(self, attempt: Attempt) -> float:
        """Time of the newest event in the log of an attempt, as W&B's own reader finds it."""
        rows = (row for log in (self.path.parent / attempt.directory).glob("*.wandb") for row in read_rows(log))
        return max((float(row.get("_timestamp", 0.0)) for row in rows), default=0.0)


def read_rows(log: Path) -> Iterator[dict[str, Any]]:
    """The rows of a W&B log, as W&B's own reader finds them; what a crash tore off is passed over."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_READ_SECONDS)
    for line in done.stdout.splitlines():
        record = parse_json(line)
        if record["type"] == "history":
            yield record["history"]["item"]
