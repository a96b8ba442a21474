"""What a person asks of a run that goes on: a file in its directory, which the stage that trains takes away."""

from __future__ import annotations

import contextlib
import os

from mccore.errors import RunError
from mccore.host.files import disk_hint
from mccore.runs.rundir import RunDir

CHECKPOINT = "checkpoint"  # exists while a checkpoint is asked for


def request_checkpoint(run: RunDir) -> None:
    """Ask the stage that trains for a checkpoint after its current step. Raises RunError when that can't be written."""
    try:
        (run.path / CHECKPOINT).touch()
    except OSError as error:
        raise RunError(f"can't ask for a checkpoint in {run.path}: {error.strerror}", hint=disk_hint(error)) from error


def take_checkpoint_request(run: RunDir) -> bool:
    """Whether a checkpoint is asked for; the request is then gone. One system call while there is none."""
    path = run.path / CHECKPOINT
    if not os.path.exists(path):
        return False
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return True
