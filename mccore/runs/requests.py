"""What a person asks of a run that goes on: a file in its directory, which the stage that trains takes away."""

from __future__ import annotations

import contextlib
import os

from mccore.errors import RunError
from mccore.host.files import disk_hint
from mccore.runs.rundir import RunDir

CHECKPOINT = "checkpoint"  # exists while a checkpoint is asked for
EVALUATE = "evaluate"  # exists while an evaluation is asked for


def request_checkpoint(run: RunDir) -> None:
    """Ask the stage that trains for a checkpoint after its current step. Raises RunError when that can't be written."""
    _ask(run, CHECKPOINT)


def take_checkpoint_request(run: RunDir) -> bool:
    """Whether a checkpoint is asked for; the request is then gone. One system call while there is none."""
    return _take(run, CHECKPOINT)


def request_evaluation(run: RunDir) -> None:
    """Ask the stage that trains to measure its model after its current step. Raises RunError when that can't be written."""
    _ask(run, EVALUATE)


def take_evaluation_request(run: RunDir) -> bool:
    """Whether an evaluation is asked for; the request is then gone. One system call while there is none."""
    return _take(run, EVALUATE)


def _ask(run: RunDir, name: str) -> None:
    try:
        (run.path / name).touch()
    except OSError as error:
        what = "a checkpoint" if name == CHECKPOINT else "an evaluation"
        raise RunError(f"can't ask for {what} in {run.path}: {error.strerror}", hint=disk_hint(error)) from error


def _take(run: RunDir, name: str) -> bool:
    path = run.path / name
    if not os.path.exists(path):
        return False
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return True
