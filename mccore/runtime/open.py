"""From what a user names, a run, a stage, a device, to the model that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mccore.config.stages import TRAINING_STAGES
from mccore.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from mccore.generate.engine import Engine
    from mccore.runs.rundir import RunDir


STAGES = TRAINING_STAGES[::-1]  # best for a chat first


def find_run(selector: str | None) -> RunDir:
    """The run a user means; without a selector the newest that has a checkpoint. Raises UsageError."""
    from mccore.host import paths
    from mccore.runs.rundir import RunDir, list_runs

    if selector is not None:
        return RunDir.open(selector)
    runs = sorted(list_runs(), key=lambda run: run.started, reverse=True)
    for run in runs:
        if any(_latest(run, stage) for stage in STAGES):
            return run
    if runs:
        raise UsageError(
            f"none of the runs in {paths.runs_dir()} has a model yet",
            hint="wait for the first checkpoint, or train one: mccore run tiny",
        )
    raise UsageError(f"there is no run in {paths.runs_dir()}", hint="train one: mccore run tiny")


def find_checkpoint(run: RunDir, stage: str | None) -> tuple[str, Path]:
    """The stage to talk to and its newest checkpoint. Raises CheckpointError when there is none."""
    found = {name: path for name in STAGES if (path := _latest(run, name))}
    if stage is None and found:
        stage = next(iter(found))
    if stage in found:
        return stage, found[stage]
    if found:
        have = ", ".join(found)
        raise CheckpointError(
            f"the run {run.name!r} has no checkpoint of {stage}, only of {have}",
            hint=f"use --stage {next(iter(found))}",
        )
    raise CheckpointError(
        f"the run {run.name!r} has no checkpoint yet (it is {run.outcome().state})",
        hint=f"go on with it: mccore run --resume {run.name}",
    )


def _latest(run: RunDir, stage: str) -> Path | None:
    from mccore.runs.checkpoints import latest

    return latest(run.checkpoint_dir(stage))


def load_engine(run: RunDir, checkpoint: Path, device: str) -> tuple[Engine, int]:
    """The model of a checkpoint with the run's tokenizer, and its step. Raises CheckpointError, DataError, UsageError."""
    import torch

    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.generate.engine import Engine
    from mccore.runtime.models import load_gpt
    from mccore.train.devices import choose_dtype

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no GPU that PyTorch can use", hint="use --device cpu")
    where = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    gpt, meta = load_gpt(checkpoint, where, choose_dtype("auto", where))
    tokenizer = Tokenizer.load(run.tokenizer_dir)
    if meta.tokenizer != tokenizer.fingerprint:
        raise CheckpointError(
            f"{checkpoint} was trained with another tokenizer than the one in {run.tokenizer_dir}",
            hint="copy the run directory again as a whole",
        )
    return Engine(gpt, tokenizer), meta.step
