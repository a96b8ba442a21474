"""How a stage ended: what its exit code, its signal and the end of its log tell."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

EXIT_STOPPED = 3

LOG_LINES = 20


@dataclass
class Ending:
    """How one stage ended; `told` when its own event says the same."""

    state: str
    message: str = ""
    told: bool = True
    log: str = ""
    hint: str = ""


def read_log_tail(log: Path, start: int, limit: int = 65_536) -> str:
    """The end of what a stage wrote to its log in this start."""
    try:
        with open(log, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(start, size - limit))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class KilledRank:
    rank: int
    signal: int


def find_killed_rank(log: str) -> KilledRank | None:
    """The rank that torchrun names as the first to fail, when a signal ended it."""
    _, named, cause = log.rpartition("Root Cause (first observed failure)")
    if not named:
        return None
    rank = re.search(r"^\s*rank\s*:\s*(\d+)", cause, re.MULTILINE)
    code = re.search(r"^\s*exitcode\s*:\s*-(\d+)", cause, re.MULTILINE)
    return KilledRank(int(rank[1]), int(code[1])) if rank and code else None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def likely_cause(number: int) -> str:
    return ", perhaps for lack of memory" if number == signal.SIGKILL else ""
