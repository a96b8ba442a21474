"""From what a user names, a run, a stage, a device, to the model that is meant: opened once, for every front end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mccore.config import RunConfig
from mccore.config.stages import TRAINING_STAGES
from mccore.errors import CheckpointError, UsageError
from mccore.runs.checkpoints import identity_of, latest, list_checkpoints, step_of
from mccore.runs.rundir import RunDir

if TYPE_CHECKING:
    import torch

    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.generate.engine import Engine
    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.megacontext.sessions.options import SessionOptions
    from mccore.model.gpt import GPT
    from mccore.runs.checkpoints import Meta
    from mccore.runtime.sessions import Sessions


STAGES = TRAINING_STAGES[::-1]  # best for a chat first


def find_run(selector: str | None) -> RunDir:
    """The run a user means; without a selector the newest that has a checkpoint. Raises UsageError."""
    from mccore.host import paths
    from mccore.runs.rundir import list_runs

    if selector is not None:
        return RunDir.open(selector)
    runs = sorted(list_runs(), key=lambda run: run.started, reverse=True)
    for run in runs:
        if any(latest(run.checkpoint_dir(stage)) for stage in STAGES):
            return run
    if runs:
        raise UsageError(
            f"none of the runs in {paths.runs_dir()} has a model yet",
            hint="wait for the first checkpoint, or train one: mccore run tiny",
        )
    raise UsageError(f"there is no run in {paths.runs_dir()}", hint="train one: mccore run tiny")


def find_checkpoint(run: RunDir, stage: str | None, step: int | None = None) -> tuple[str, Path]:
    """The stage to talk to and its newest checkpoint, or that of a step. Raises CheckpointError when there is none."""
    found = {name: path for name in STAGES if (path := latest(run.checkpoint_dir(name)))}
    if stage is None and found:
        stage = next(iter(found))
    if stage in found and step is not None:
        steps = {step_of(path): path for path in list_checkpoints(run.checkpoint_dir(stage))}
        if step in steps:
            return stage, steps[step]
        raise CheckpointError(
            f"the run {run.name!r} has no checkpoint of {stage} at step {step}",
            hint=f"there are those of steps {', '.join(map(str, steps))}",
        )
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


@dataclass(frozen=True)
class OpenModel:
    """A checkpoint as a model that answers. `nets` is None for one that was trained without MegaContext."""

    checkpoint: Path
    meta: Meta
    config: RunConfig
    gpt: GPT
    nets: MegaContextNets | None

    @property
    def run(self) -> RunDir:
        """The run that the checkpoint lies in."""
        return RunDir(self.checkpoint.parents[2])

    @property
    def source(self) -> dict[str, Any]:
        """Run, stage and step, as a person names the model."""
        return {"run": self.run.name, "stage": self.meta.stage, "step": self.meta.step}

    @property
    def identity(self) -> str:
        """What tells this model and its tokenizer from every other."""
        return identity_of(self.checkpoint, self.meta.tokenizer)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run. Raises DataError where it can't be read, CheckpointError for another one."""
        from mccore.data.tokenizer.tokenizer import Tokenizer

        directory = self.run.tokenizer_dir
        tokenizer = Tokenizer.load(directory)
        require_tokenizer(self.meta, tokenizer, directory)
        return tokenizer

    def engine(self) -> Engine:
        """Generation with the model."""
        from mccore.generate.engine import Engine

        return Engine(self.gpt, self.tokenizer)

    def sessions(self, options: SessionOptions | None = None) -> Sessions:
        """Sessions of the model, focused by `options`; default: as it was trained.

        Raises UsageError for a model without MegaContext, FocusError for a Working Context that is too small, CheckpointError
        for a lookup that can't be read.
        """
        from mccore.megacontext.search.mixer_file import read_mixer
        from mccore.megacontext.sessions.options import SessionOptions
        from mccore.runtime.sessions import build_sessions

        if self.nets is None:
            raise UsageError(
                f"the model in {self.checkpoint} was trained without MegaContext: it has no gists and no focus",
                hint="train one with `mccore run tiny --mc`",
            )
        options = options or SessionOptions.of(self.config.megacontext)
        mixer = read_mixer(self.checkpoint, self.identity) if options.search.lookup else None
        if mixer is not None:
            mixer.to(self.gpt.device)
        return build_sessions(self.gpt, self.nets, options, self.identity, mixer)


def open_model(
    checkpoint: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    aux_dtype: torch.dtype | None = None,
) -> OpenModel:
    """The model in a checkpoint directory, in evaluation mode. Its tensors are read and checked once.

    dtype: the compute type, fp32 by default; aux_dtype: that of GistNet and LensNet, by default the same.
    Raises CheckpointError for a checkpoint that is missing or damaged.
    """
    import torch

    from mccore.runtime.models import checkpoint_config, gpt_from, nets_from
    from mccore.train.checkpoint.read import load_model

    state, meta = load_model(checkpoint, device)
    config = checkpoint_config(checkpoint, meta, {name: tuple(tensor.shape) for name, tensor in state.items()})
    dtype = dtype or torch.float32
    try:
        gpt = gpt_from(state, config, dtype)
        nets = nets_from(state, config, device, aux_dtype or dtype)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} doesn't hold the model its configuration describes: {error}", hint="use another checkpoint"
        ) from error
    return OpenModel(checkpoint, meta, config, gpt, nets)


def open_on(checkpoint: Path, device: str) -> OpenModel:
    """`open_model` on a device that a user names: `auto`, `cpu` or `cuda`, in the compute type that suits it.

    Raises UsageError where there is no such device, and what `OpenModel.tokenizer` and `open_model` do.
    """
    import torch

    from mccore.train.devices import choose_dtype

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no GPU that PyTorch can use", hint="use --device cpu")
    where = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    model = open_model(checkpoint, where, choose_dtype("auto", where))
    _ = model.tokenizer  # another one is told here, not at the first answer
    return model


def require_tokenizer(meta: Meta, tokenizer: Tokenizer, directory: Path) -> None:
    """Raise CheckpointError for a checkpoint that was trained with another tokenizer than that of `directory`."""
    if meta.tokenizer != tokenizer.fingerprint:
        raise CheckpointError(
            f"the {meta.stage} checkpoint of step {meta.step} was trained with another tokenizer than {directory} holds",
            hint="a run keeps one tokenizer: copy the run directory again as a whole, or start a new run to change it",
        )
