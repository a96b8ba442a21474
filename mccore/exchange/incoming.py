"""A model on its way in: what every reader of another format gives, and the run directory that it becomes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mccore.config import MegaContextConfig, ModelConfig, RunConfig
from mccore.config.stages import STAGES, TEXT_STAGE
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError, RunError
from mccore.events import EventWriter
from mccore.host import paths
from mccore.host.files import disk_hint, sync_directory
from mccore.model.gpt import GPT
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir, check_name
from mccore.runtime.models import nets_from
from mccore.scaling.derive import derive
from mccore.train.checkpoint.write import write_checkpoint


@dataclass(frozen=True)
class Incoming:
    """One model of another format. `read` gives its tensors in fp32, those of the GPT under `gpt.` and of the networks beside it
    under `mc.`; they are read when they are written."""

    stage: str
    step: int
    model: ModelConfig
    read: Callable[[], dict[str, Tensor]]
    source: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the file says of its training
    megacontext: MegaContextConfig = field(default_factory=MegaContextConfig)


def make_run(
    name: str,
    models: Sequence[Incoming],
    tokenizer: Tokenizer,
    *,
    recipe: str,
    corpus: str,
    made: Callable[[Incoming], None] = lambda model: None,
) -> RunDir:
    """A run directory of these models, complete or absent. recipe: what its configuration names as its origin; corpus: what the
    models were pretrained on; made: hears of each model that is written.

    Raises UsageError for a name that can't be, RunError where there is such a run or the disk doesn't take it, and
    CheckpointError for tensors that aren't those of the model.
    """
    check_name(name)
    runs = paths.runs_dir()
    if (runs / name).exists():
        raise RunError(f"the run {name!r} exists already ({runs / name})", hint="choose another --name")
    config = _config(models, tokenizer, recipe, corpus)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=runs))
        try:
            run = RunDir.create(partial, name, config)
            _fill(run, models, tokenizer, made)
            os.rename(run.path, runs / name)
            sync_directory(runs)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RunError(f"can't make the run {runs / name}: {error.strerror}", hint=disk_hint(error)) from error
    return RunDir(runs / name)


def _config(models: Sequence[Incoming], tokenizer: Tokenizer, recipe: str, corpus: str) -> RunConfig:
    first = models[0]
    for other in models[1:]:
        if other.model != first.model:
            raise CheckpointError(
                f"{other.source} is a model of other shapes than {first.source}: a run has one",
                hint="import them one by one, each with --stage",
            )
    if tokenizer.vocab_size != first.model.vocab_ids:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids, the model {first.model.vocab_ids:,}: they don't belong together",
            hint="give the tokenizer that the model was trained with",
        )
    values = {
        "recipe": recipe,
        "stages": [TEXT_STAGE],
        "data": {"corpus": corpus},
        "tokenizer": {"vocab_size": tokenizer.vocab_size},
        "model": first.model.model_dump(),
        "megacontext": first.megacontext.model_dump(),
    }
    config = derive(RunConfig.model_validate(values))
    found = {model.stage for model in models}
    return config.model_copy(update={"stages": tuple(stage for stage in STAGES if stage in found)})


def _fill(run: RunDir, models: Sequence[Incoming], tokenizer: Tokenizer, made: Callable[[Incoming], None]) -> None:
    version = metadata.version("mccore")
    with EventWriter(run.events_dir / "launcher.jsonl") as writer:
        stages = list(run.config.stages)
        writer.emit("run.start", pid=os.getpid(), resumed=False, version=version, stages=stages, telemetry=[])
        tokenizer.save(run.tokenizer_dir)
        for model in models:
            state = model.read()
            check_tensors(state, run.config, model.source)
            meta = Meta(model.stage, model.step, 0, run.config.model_dump(mode="json"), tokenizer.fingerprint)
            named = {f"model/{name}": tensor for name, tensor in state.items()}
            write_checkpoint(run.checkpoint_dir(model.stage), named, meta)
            run.write_result(model.stage, {"step": model.step, "imported": {"source": model.source, **model.facts}})
            made(model)
        message = f"imported from {models[0].source}"
        writer.emit("run.end", outcome="finished", message=message, seconds=0.0, durable=True)


def check_tensors(state: Mapping[str, Tensor], config: RunConfig, source: str) -> None:
    """Raise CheckpointError unless these are the tensors of the model, each with its shape and finite numbers."""
    with torch.device("meta"):
        expected = {f"gpt.{name}": tuple(tensor.shape) for name, tensor in GPT(config.model).state_dict().items()}
    own = [name for name in state if not name.startswith("mc.")]
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"there is no place for {name}" for name in own if name not in expected]
    wrong += [
        f"{name} is {_shape(state[name].shape)} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    wrong = wrong or [
        f"{name} holds numbers that aren't finite" for name in state if not bool(state[name].isfinite().all())
    ]
    try:
        if not wrong:
            nets_from(state, config, "cpu", torch.float32)
    except RuntimeError as error:
        wrong.append(" ".join(str(error).split()))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{source} doesn't hold the model that it describes: {'; '.join(wrong[:3])}{more}",
            hint="fetch it again, or give the checkpoint that belongs to this configuration",
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"
