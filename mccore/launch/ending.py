"""How a stage ended: what its exit code, its signal and the end of its log tell."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mccore.config import StageName
from mccore.events import Event
from mccore.host.regular import regular_descriptor
from mccore.runs.rundir import RunDir

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


@dataclass(frozen=True)
class Evidence:
    """What is known of a stage whose processes are gone."""

    run: RunDir
    stage: StageName
    code: int  # exit code of its process, negative for a signal
    log: str  # the end of what it wrote
    ends: Sequence[Event]  # its stage.end events, of all ranks
    signals: int  # how often a person asked for its end
    many_ranks: bool  # which must meet first
    met: bool  # whether any of them was heard of


def judge(evidence: Evidence) -> Ending:
    """How a stage ended: by its own word, else by its exit code."""
    ends, code, signals, stage = evidence.ends, evidence.code, evidence.signals, evidence.stage
    own = next((event for event in reversed(ends) if event.rank == 0), None)
    if own is not None and own.data.get("outcome") in ("finished", "stopped"):
        return Ending(own.data["outcome"], str(own.data.get("message") or ""))
    if failed := _judge_ranks(evidence, own):
        return failed
    if signals and not evidence.met and evidence.many_ranks:
        return Ending("stopped", f"{stage} was stopped before its ranks had met", told=False)
    if signals > 1:
        return Ending("interrupted", f"{stage} was ended before it could save")
    if code == EXIT_STOPPED:
        return Ending("stopped", told=False)
    last_lines = _last_lines(evidence.log)
    if code == 0:
        if evidence.run.completed(stage):
            return Ending("finished", told=False)
        return Ending("failed", f"{stage} ended without a result", told=False, log=last_lines)
    how = f"was killed ({signal_name(-code)}){likely_cause(-code)}" if code < 0 else f"failed with exit code {code}"
    last = last_lines.splitlines()[-1].strip() if last_lines else ""
    said = f": {last}" if last and code > 0 else ""
    return Ending("failed", f"{stage} {how}{said}", told=False, log=last_lines)


def _judge_ranks(evidence: Evidence, own: Event | None) -> Ending | None:
    """The failure of the rank that failed first, None where none is known to have; `own` is the last word of rank 0."""
    failures = [event for event in evidence.ends if event.data.get("outcome") == "failed"]
    last_lines = _last_lines(evidence.log)
    killed = find_killed_rank(evidence.log)
    if killed is not None and not (failures and failures[0].rank == killed.rank):
        # The other ranks only noticed that a peer was gone.
        message = f"rank {killed.rank} was killed ({signal_name(killed.signal)}){likely_cause(killed.signal)}"
        return Ending("failed", message, told=False, log=last_lines)
    if not failures:
        return None
    first = failures[0]
    message = str(first.data.get("message") or "failed")
    if evidence.many_ranks:
        message = f"rank {first.rank}: {message}"
    # What other ranks say later is that a peer was gone: the last word must be that of the one that failed.
    told = first is own and first is evidence.ends[-1]
    log, hint = str(first.data.get("traceback") or last_lines), str(first.data.get("hint") or "")
    return Ending("failed", message, told=told, log=log, hint=hint)


def _last_lines(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_LINES:])


def read_log_tail(log: Path, start: int, limit: int = 65_536) -> str:
    """The end of what a stage wrote to its log in this start."""
    try:
        with os.fdopen(regular_descriptor(log), "rb") as stream:
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
