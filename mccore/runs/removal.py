"""What of a run can be deleted, one rule for the command and the screen: nothing that is in use, and nothing that is needed
without a yes that knows of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mccore.config.stages import TRAINING_STAGES, evaluations
from mccore.errors import CheckpointError, MccoreError, RunError, UsageError
from mccore.host.files import disk_hint
from mccore.runs.checkpoints import incomplete_checkpoints, list_checkpoints, missing_parts, read_meta, step_of
from mccore.runs.rundir import RunDir


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint: what it is, what is wrong with it, and what a run would miss without it."""

    path: Path
    stage: str
    step: int
    tokens: int | None
    bytes: int
    written: float  # seconds since the epoch
    problem: str = ""  # why it isn't complete, or can't be read
    latest: bool = False  # what `latest` means for its stage: chats, evaluations and a resumed run take it
    needed: str = ""  # what needs it; empty for one that nothing would miss

    @property
    def name(self) -> str:
        """How a person names it within its run: `base/1200`."""
        return f"{self.stage}/{self.step}"


def checkpoint_rows(run: RunDir) -> list[CheckpointRow]:
    """All checkpoints of a run, stage by stage, oldest first. One that can't be read is a row with a problem."""
    rows = []
    for stage in TRAINING_STAGES:
        directory = run.checkpoint_dir(stage)
        try:
            complete = list_checkpoints(directory)
        except CheckpointError as error:
            rows.append(CheckpointRow(directory, stage, 0, None, 0, 0.0, error.message))
            continue
        newest = complete[-1] if complete else None
        for path in sorted([*complete, *incomplete_checkpoints(directory)], key=step_of):
            rows.append(_checkpoint_row(run, stage, path, is_latest=path == newest))
    return rows


def find_row(run: RunDir, name: str) -> CheckpointRow:
    """The checkpoint that a person names: STAGE/STEP, or STAGE for its newest. Raises UsageError."""
    rows = checkpoint_rows(run)
    stage, _, step = name.partition("/")
    for row in rows:
        if row.stage == stage and (step == str(row.step) or (not step and row.latest)):
            return row
    there = ", ".join(row.name for row in rows) or "none"
    raise UsageError(f"the run {run.name!r} has no checkpoint {name!r}", hint=f"there are: {there}")


def delete_checkpoint(run: RunDir, row: CheckpointRow, *, sure: bool = False) -> None:
    """Delete a checkpoint. `sure`: also one that is needed. Raises UsageError without it, RunError for one in use."""
    running = run.is_running()
    if running and (row.latest or row.problem):
        state = "is being written" if row.problem else "is what the run would go on from"
        raise RunError(
            f"{run.name!r} is running, and {row.name} {state}", hint=f"stop it first: mccore runs stop {run.name}"
        )
    if row.needed and not sure:
        raise UsageError(f"{row.name} is needed: {row.needed}", hint="delete it all the same with --yes")
    doomed = row.path.with_name(f".{row.path.name}.old")  # a removal that is cut short isn't taken for a checkpoint
    try:
        if row.path.is_symlink():
            row.path.unlink()
            return
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(row.path, doomed)
        shutil.rmtree(doomed)
    except FileNotFoundError:  # someone else was quicker
        return
    except OSError as error:
        raise RunError(f"can't delete {row.path}: {error.strerror}", hint=disk_hint(error)) from error


def delete_run(run: RunDir) -> None:
    """Delete a run with everything in its directory. Raises RunError for one that is running, or that can't be deleted."""
    if run.is_running():
        raise RunError(f"{run.name!r} is running", hint=f"stop it first: mccore runs stop {run.name}")
    try:
        if run.path.is_symlink():
            run.path.unlink()
            return
        (run.path / "run.json").unlink(missing_ok=True)  # what is left of a removal that is cut short is no run
        shutil.rmtree(run.path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"can't delete {run.path}: {error.strerror}", hint=disk_hint(error)) from error


def _checkpoint_row(run: RunDir, stage: str, path: Path, *, is_latest: bool) -> CheckpointRow:
    problem, tokens = missing_parts(path), None
    if not problem:
        try:
            tokens = read_meta(path).tokens
        except MccoreError as error:
            problem = error.message
    try:
        files = [entry.stat() for entry in path.iterdir() if entry.is_file()]
        written = path.stat().st_mtime
    except OSError:
        files, written = [], 0.0
    needed = _needed(run, stage) if is_latest else ""
    return CheckpointRow(
        path, stage, step_of(path), tokens, sum(file.st_size for file in files), written, problem, is_latest, needed
    )


def _needed(run: RunDir, stage: str) -> str:
    """What needs the newest checkpoint of a stage."""
    try:
        stages = run.config.stages
    except MccoreError:
        return "the run's configuration can't be read, so nobody knows"
    if stage in stages and not run.completed(stage):
        return "a resumed run goes on from it"
    later = [each for each in TRAINING_STAGES[TRAINING_STAGES.index(stage) + 1 :] if each in stages]
    if later and not run.completed(later[0]):
        return f"{later[0]} begins with it"
    measured = [spec.name for spec in (*evaluations(chat=False), *evaluations(chat=True)) if spec.evaluates == stage]
    if open_ := [name for name in measured if name in stages and not run.completed(name)]:
        return f"{open_[0]} measures it"
    return f"it is the model of {stage}: chats and evaluations use it"
