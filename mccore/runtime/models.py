"""A checkpoint as a GPT, or as the networks of MegaContext."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mccore.config import RunConfig
from mccore.errors import CheckpointError, ConfigError
from mccore.runs.stored_config import parse_config

if TYPE_CHECKING:
    import torch

    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.model.gpt import GPT
    from mccore.runs.checkpoints import Meta


def load_gpt(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> tuple[GPT, Meta]:
    """The GPT in a checkpoint directory, which is all it needs, computing in `dtype` (fp32 by default).

    Raises CheckpointError when it is damaged.
    """
    import torch

    from mccore.model.gpt import GPT
    from mccore.train.checkpoint.read import load_model

    state, meta = load_model(path, device)
    config = checkpoint_config(path, meta, {name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        gpt = GPT(config.model, compute_dtype=dtype or torch.float32)
    weights = {name.removeprefix("gpt."): tensor for name, tensor in state.items() if name.startswith("gpt.")}
    try:
        gpt.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} doesn't hold the model its configuration describes: {error}", hint="use another checkpoint"
        ) from error
    return gpt.eval(), meta


def checkpoint_config(path: Path, meta: Meta, shapes: Mapping[str, tuple[int, ...]]) -> RunConfig:
    """The configuration in a checkpoint, after it was compared with the shapes of its tensors: layers, width and vocabulary
    must agree before a model of that size is made. Raises CheckpointError, for a configuration of a newer mccore too."""
    try:
        config = parse_config(meta.config, f"the checkpoint {path}")
    except ConfigError as error:
        raise CheckpointError(error.message, hint=error.hint) from error
    layers = {name.split(".")[2] for name in shapes if name.startswith("gpt.blocks.")}
    embedding = shapes.get("gpt.embedding.weight", ())
    model = config.model
    if len(layers) != model.depth or embedding != (model.vocab_size, model.n_embd):
        raise CheckpointError(
            f"{path} doesn't hold the model its configuration describes: {len(layers)} layers and an embedding of "
            f"{' x '.join(map(str, embedding)) or 'nothing'} instead of {model.depth} layers and "
            f"{model.vocab_size} x {model.n_embd}",
            hint="use another checkpoint",
        )
    return config


def load_megacontext(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> MegaContextNets | None:
    """GistNet, LensNet and what belongs to them in a checkpoint directory, computing in `dtype` (fp32 by default); None for
    a model that was trained without. Raises CheckpointError when it is damaged.
    """
    import torch

    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.train.checkpoint.read import load_model

    state, meta = load_model(path, device)
    config = checkpoint_config(path, meta, {name: tuple(tensor.shape) for name, tensor in state.items()})
    weights = {name.removeprefix("mc."): tensor for name, tensor in state.items() if name.startswith("mc.")}
    if not weights:
        return None
    nets = MegaContextNets(config.megacontext, config.model, dtype=dtype or torch.float32).to(device)
    try:
        nets.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} doesn't hold the networks its configuration describes: {error}", hint="use another checkpoint"
        ) from error
    return nets.eval()
