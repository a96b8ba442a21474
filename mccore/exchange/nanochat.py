"""nanochat's checkpoints: where they lie, which generation they are of, and what model that is.

Two generations are published, each with the constants of its code, which no checkpoint records: that of 2025 (seed) and that of
March 2026 and later. Between them constants changed week by week under the same names: such checkpoints are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from mccore.config import ModelConfig
from mccore.config.section import describe_validation
from mccore.errors import CheckpointError, UsageError
from mccore.exchange.incoming import Incoming
from mccore.exchange.tensor_names import to_ours
from mccore.host.json_file import BadJson, read_object
from mccore.host.text import open_regular, spell
from mccore.scaling.model import WINDOW_MULTIPLE, round_up

FOLDERS = {
    "base_checkpoints": "base",
    "mid_checkpoints": "mid",
    "chatsft_checkpoints": "sft",
    "chatrl_checkpoints": "rl",
}
"""Folder of nanochat's base directory -> stage of ours."""

_MODEL_FILE = re.compile(r"model_(\d{1,18})\.pt", re.ASCII)
_NORM_EPS = 1.1920928955078125e-07  # torch's own where none is given, in fp32
_FRESH = {"resid_lambdas", "x0_lambdas", "smear_gate.weight", "smear_lambda", "backout_lambda"}
_SEED = {
    "window_pattern": "L", "rope_base": 10_000.0, "rope_dtype": "bfloat16", "qk_scale": 1.0,
    "value_embeddings": False, "residual_scalars": False, "smear": False, "backout": False,
}  # fmt: skip
_LATE = {
    "rope_base": 100_000.0, "qk_scale": 1.2, "value_embeddings": True, "value_gate_channels": 12, "value_gate_scale": 3.0,
    "residual_scalars": True, "smear": True, "smear_gate_channels": 24, "backout": True,
}  # fmt: skip
_FACTS = ("val_bpb", "val_loss", "mmlu_acc", "arc_easy_acc", "user_config", "total_batch_size")


@dataclass(frozen=True)
class FoundCheckpoint:
    """One checkpoint of nanochat's: the tensors and what it says of them."""

    stage: str
    step: int
    model: Path
    meta: Path


def find_checkpoints(directory: Path, *, stage: str | None, tag: str | None, step: int | None) -> list[FoundCheckpoint]:
    """The checkpoints to take from a base directory of nanochat's, every stage's last, or the one of a folder that holds
    `model_<step>.pt`. tag: the model's name, such as d20, where there are several; step: another one than the last.

    Raises UsageError where it isn't clear which are meant, CheckpointError where there is none.
    """
    if not directory.is_dir():
        raise UsageError(
            f"{spell(directory)} is no folder", hint="give nanochat's base directory or one of a checkpoint"
        )
    if _steps(directory):
        known = FOLDERS.get(directory.resolve().parent.name)
        if (stage := stage or known) is None:
            raise UsageError(
                f"{spell(directory)} doesn't say which stage its model is of",
                hint=f"give --stage: one of {', '.join(FOLDERS.values())}",
            )
        return [_one(directory, stage, step)]
    places = {
        FOLDERS[folder]: models
        for folder in FOLDERS
        if stage in (None, FOLDERS[folder]) and (models := _models(directory / folder))
    }
    if not places:
        wanted = f" of {stage}" if stage else ""
        raise CheckpointError(
            f"there is no checkpoint{wanted} of nanochat's in {spell(directory)}",
            hint=f"its folders are {', '.join(FOLDERS)}, or a folder with files model_<step>.pt",
        )
    tags = sorted({name for models in places.values() for name in models})
    if tag is None and len(tags) > 1:
        raise UsageError(f"{spell(directory)} holds several models: {', '.join(tags)}", hint="choose one with --tag")
    tag = tag or tags[0]
    found = [_one(models[tag], name, step) for name, models in places.items() if tag in models]
    if not found:
        raise UsageError(f"{spell(directory)} holds no model {tag!r}", hint=f"there are {', '.join(tags)}")
    return found


def find_tokenizer(directory: Path) -> Path:
    """The `tokenizer.pkl` that goes with a base directory or with a checkpoint's folder. Raises CheckpointError."""
    places = [directory, directory / "tokenizer", directory.resolve().parents[1] / "tokenizer"]
    for place in places:
        if (place / "tokenizer.pkl").is_file():
            return place / "tokenizer.pkl"
    raise CheckpointError(
        f"there is no tokenizer.pkl in {spell(directory)}, nor in a folder `tokenizer` there or beside its stages",
        hint="give it with --tokenizer",
    )


def incoming(found: FoundCheckpoint, *, exact_rotary: bool = False) -> Incoming:
    """A checkpoint as a model of ours. exact_rotary: rotary tables in fp32 for a model that was trained with rounded ones.

    Raises CheckpointError for a file that is damaged, that isn't tensors alone, or of a generation that can't be taken exactly.
    """
    meta = _read_meta(found.meta)
    state = _read_tensors(found.model)
    config = _config(found, meta, state, exact_rotary)

    def read() -> dict[str, Tensor]:
        return {
            f"gpt.{name}": tensor.float().contiguous()
            for name, tensor in to_ours(_read_tensors(found.model), "nanochat", config.head_dim).items()
        }

    facts = {name: meta[name] for name in _FACTS if name in meta}
    return Incoming(found.stage, found.step, config, read, spell(found.model), facts)


def _config(
    found: FoundCheckpoint, meta: Mapping[str, Any], state: Mapping[str, Tensor], exact_rotary: bool
) -> ModelConfig:
    shape = meta.get("model_config")
    names = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    if not isinstance(shape, dict) or any(type(shape.get(name)) is not int or shape[name] < 1 for name in names):
        raise CheckpointError(
            f"{spell(found.meta)} doesn't describe a model: its model_config lacks {', '.join(names)}",
            hint="fetch the file again",
        )
    length, depth = shape["sequence_len"], shape["n_layer"]
    constants = dict(_seed_or_late(found, state, depth))
    if constants["smear"]:
        constants["window_pattern"] = str(shape.get("window_pattern", "")).upper()
        # A window there counts the tokens before a token, one here the token as well.
        constants["window_short"] = round_up(-(-length // 4), WINDOW_MULTIPLE) + 1
    elif exact_rotary:
        constants["rope_dtype"] = "float32"
    rows = state["transformer.wte.weight"].shape[0]
    try:
        return ModelConfig(
            depth=depth,
            head_dim=shape["n_embd"] // shape["n_head"],
            n_embd=shape["n_embd"],
            n_head=shape["n_head"],
            n_kv_head=shape["n_kv_head"],
            vocab_size=rows,
            vocab_ids=shape["vocab_size"],
            max_seq_len=length,
            mlp_ratio=4,
            norm_eps=_NORM_EPS,
            logit_softcap=15.0,
            **constants,
        )
    except ValidationError as error:
        raise CheckpointError(
            f"{spell(found.meta)} describes a model that can't be: {describe_validation(error)}",
            hint="fetch the file again",
        ) from error


def _seed_or_late(found: FoundCheckpoint, state: Mapping[str, Tensor], depth: int) -> Mapping[str, Any]:
    """The constants of the generation that has these tensors. Raises CheckpointError for any other."""
    matrices = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    seed = {"transformer.wte.weight", "lm_head.weight"}
    seed |= {f"transformer.h.{layer}.{name}.weight" for layer in range(depth) for name in matrices}
    gated = [layer for layer in range(depth) if (depth - 1 - layer) % 2 == 0]
    late = seed | _FRESH | {f"value_embeds.{layer}.weight" for layer in gated}
    late |= {f"transformer.h.{layer}.attn.ve_gate.weight" for layer in gated}
    names = set(state)
    if names == seed:
        return _SEED
    if names == late:
        return _LATE
    if missing := sorted(seed - names):
        raise CheckpointError(
            f"{spell(found.model)} isn't a model of {depth} layers of nanochat's: it has no {missing[0]}",
            hint="give the checkpoint that belongs to this meta file",
        )
    odd = sorted(names - late) or sorted(late - names)
    raise CheckpointError(
        f"{spell(found.model)} was written between nanochat's two published generations (by {odd[0]!r}): softcap, rotary base "
        "and the factor on queries changed then, and a checkpoint doesn't record them, so its logits couldn't be given exactly",
        hint="checkpoints of 2025, and of 14 March 2026 and later, can be taken",
    )


def _one(directory: Path, stage: str, step: int | None) -> FoundCheckpoint:
    steps = _steps(directory)
    step = max(steps) if step is None else step
    if step not in steps:
        raise CheckpointError(
            f"{spell(directory)} has no checkpoint of step {step}",
            hint=f"there are those of steps {', '.join(map(str, sorted(steps)))}",
        )
    return FoundCheckpoint(
        stage, step, steps[step], steps[step].with_name(f"meta_{steps[step].stem.partition('_')[2]}.json")
    )


def _steps(directory: Path) -> dict[int, Path]:
    return {int(found[1]): path for path, found in _model_files(directory) if path.is_file()}


def _model_files(directory: Path) -> Sequence[tuple[Path, re.Match[str]]]:
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    return [(path, found) for path in paths if (found := _MODEL_FILE.fullmatch(path.name))]


def _models(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _steps(path)}


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except OSError as error:
        raise CheckpointError(
            f"can't read {spell(path)}: {error.strerror}", hint="a checkpoint is model_<step>.pt and meta_<step>.json"
        ) from error
    except BadJson as error:
        raise CheckpointError(f"{spell(path)} is damaged: {error}", hint="fetch it again") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped and not yet read, named without what torch.compile puts before."""
    open_regular(path).close()  # a device or a pipe would be waited for
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise CheckpointError(f"can't read {spell(path)}: {error.strerror or error}") from error
    except Exception as error:  # whatever the reader says to a damaged or hostile file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{spell(path)} can't be read as tensors alone, and nothing else of it is: {reason:.200}",
            hint="fetch it again; a checkpoint of nanochat's holds nothing but tensors",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.is_floating_point()
        for name, tensor in state.items()
    ):
        raise CheckpointError(f"{spell(path)} isn't a model of nanochat's: it holds more than its tensors")
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
