"""A checkpoint of ours as a folder that others load: exact, or refused with what doesn't fit."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mccore.config import MegaContextConfig, ModelConfig, RunConfig
from mccore.config.section import describe_validation
from mccore.config.stages import TRAINING_STAGES
from mccore.data.tokenizer.formats import read_tokenizer, write_huggingface
from mccore.data.tokenizer.huggingface import read_huggingface
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError, RunError, UsageError
from mccore.events import read_events
from mccore.exchange import transformers
from mccore.exchange.card import render_card
from mccore.exchange.incoming import Incoming
from mccore.host.files import disk_hint, share_file, sync_directory, write_atomic
from mccore.host.json_file import BadJson, check_format, read_object
from mccore.host.text import spell
from mccore.report.collect import collect
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir
from mccore.runtime.models import checkpoint_config
from mccore.runtime.open import require_tokenizer
from mccore.scaling.model import layer_windows
from mccore.train.checkpoint.read import load_model

KINDS = ("safetensors", "transformers", "gguf")
FORMAT = "mccore-export"
FORMAT_VERSION = 1
_PLAIN = (
    "GistNet and LensNet stay behind: this format has no place for them. What is here is the language model alone, which "
    "computes what it does in mccore without a Working Context."
)


@dataclass(frozen=True)
class Exported:
    """What was written, and what whoever takes it should know."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Outgoing:
    """A checkpoint that was read: its tensors by their stored names, and what belongs to them."""

    run: RunDir
    state: Mapping[str, Tensor]
    meta: Meta
    config: RunConfig
    tokenizer: Tokenizer


def export(checkpoint: Path, kind: str, folder: Path) -> Exported:
    """Write the model of a checkpoint to `folder` in a format of KINDS, whole or not at all.

    Raises UsageError for a folder that holds something, and for a model that the format can't hold, with every part that has no
    place there; CheckpointError for a damaged checkpoint; RunError when the disk doesn't take it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{spell(folder)} is there already and isn't empty", hint="choose another --out")
    state, meta = load_model(checkpoint)
    config = checkpoint_config(checkpoint, meta, {name: tuple(tensor.shape) for name, tensor in state.items()})
    refuse_misfits(config.model, kind)
    run = RunDir(checkpoint.parents[2])
    tokenizer = Tokenizer.load(run.tokenizer_dir)
    require_tokenizer(meta, tokenizer, run.tokenizer_dir)
    return _write_model(Outgoing(run, state, meta, config, tokenizer), kind, folder)


def refuse_misfits(model: ModelConfig, kind: str) -> None:
    """Raise UsageError naming everything of a model that a format has no place for."""
    if kind == "safetensors":
        return
    found = transformers.misfits(model)
    if kind == "gguf":
        found += ["squared ReLU behind normed queries and keys"]
        found += ["capped logits (model.logit_softcap)"] if model.logit_softcap else []
        raise UsageError(
            f"no GGUF is written of this model: llama and its kin in llama.cpp have no place for {', '.join(found)}",
            hint="export it with --format safetensors, or transformers",
        )
    if found:
        raise UsageError(
            f"transformers' NanoChat class has no place for {', '.join(found)}: its logits would be others",
            hint="export it with --format safetensors; a model that fits is trained with these settings off, see "
            "docs/exchange.md",
        )


def _write_model(source: Outgoing, kind: str, folder: Path) -> Exported:
    model, extra = source.config.model, [name for name in source.state if not name.startswith("gpt.")]
    notes = (_PLAIN,) if kind == "transformers" and extra else ()
    if kind == "transformers":
        gpt = {name.removeprefix("gpt."): tensor for name, tensor in source.state.items() if name.startswith("gpt.")}
        tensors = transformers.tensors_of(gpt, model)
        files = {
            "config.json": transformers.config_of(model, source.tokenizer),
            "generation_config.json": transformers.token_ids(source.tokenizer),
            "tokenizer_config.json": transformers.tokenizer_config(model),
        }
    else:
        tensors = {name: tensor.contiguous() for name, tensor in source.state.items()}
        files = {"config.json": _own_config(source)}
    report = collect(source.run, read_events(source.run.events_dir))
    card = render_card(report, source.config, source.meta.stage, kind, notes)
    texts = {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()} | {"README.md": card}
    _write_folder(folder, tensors, texts, source.tokenizer)
    return Exported(folder, tuple(sorted([*texts, "model.safetensors", "tokenizer.json"])), notes)


def _own_config(source: Outgoing) -> dict[str, Any]:
    """What our own reader needs, and nothing that tells of the machine: corpora and mixtures are in the card, by name."""
    dumped = source.config.model_dump(mode="json")
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "stage": source.meta.stage,
        "step": source.meta.step,
        "recipe": source.config.recipe,
        "model": dumped["model"],
        "megacontext": dumped["megacontext"],
        "windows": list(layer_windows(source.config.model)),
    }


def _write_folder(folder: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], tokenizer: Tokenizer) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            inner = partial / "folder"  # with the umask's mode, not that of a private folder
            inner.mkdir()
            save_file(dict(tensors), inner / "model.safetensors", metadata={"format": "pt"})
            share_file(inner / "model.safetensors")
            for name, text in texts.items():
                write_atomic(inner / name, text)
            write_huggingface(tokenizer, inner / "tokenizer.json")
            sync_directory(inner)
            if folder.is_dir():
                folder.rmdir()
            os.rename(inner, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_directory(folder.parent)
    except OSError as error:
        hint = disk_hint(error, "export it again", "choose another --out")
        raise RunError(f"can't write {spell(folder)}: {error.strerror}", hint=hint) from error
    except SafetensorError as error:
        raise RunError(f"can't write {spell(folder)}: {error}", hint="make room, or choose another --out") from error


def read_exported(directory: Path) -> tuple[Incoming, Tokenizer, str]:
    """The model, the tokenizer and the recipe in a folder that `export` wrote as safetensors.

    Raises CheckpointError for anything else, DataError for the tokenizer.
    """
    path = directory / "config.json"
    try:
        content = check_format(read_object(path), FORMAT, FORMAT_VERSION)
        model = ModelConfig.model_validate(content["model"])
        megacontext = MegaContextConfig.model_validate(content["megacontext"])
        stage, step, recipe = content["stage"], content["step"], content["recipe"]
    except OSError as error:
        raise CheckpointError(
            f"can't read {spell(path)}: {error.strerror}", hint="give a folder that `mccore export` wrote"
        ) from error
    except ValidationError as error:
        raise CheckpointError(f"{spell(path)} is damaged: {describe_validation(error)}") from error
    except (BadJson, KeyError) as error:
        raise CheckpointError(
            f"{spell(path)} isn't what `mccore export --format safetensors` writes: {error}",
            hint="a model of transformers' NanoChat class is taken by `mccore import transformers`",
        ) from error
    if stage not in TRAINING_STAGES or type(step) is not int or not 0 <= step < 2**63 or not isinstance(recipe, str):
        raise CheckpointError(f"{spell(path)} is damaged: its stage, step or recipe", hint="copy the folder again")
    file = directory / "model.safetensors"
    tokenizer = read_tokenizer(read_huggingface(directory / "tokenizer.json"))
    incoming = Incoming(stage, step, model, lambda: transformers.read_tensors(file), spell(file), {}, megacontext)
    return incoming, tokenizer, recipe
