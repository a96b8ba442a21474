"""The tensors of a checkpoint as networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mccore.config import RunConfig
from mccore.errors import CheckpointError, ConfigError
from mccore.model.gpt import GPT
from mccore.runs.stored_config import parse_config

if TYPE_CHECKING:
    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.runs.checkpoints import Meta


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


def gpt_from(state: Mapping[str, Tensor], config: RunConfig, dtype: torch.dtype) -> GPT:
    """The GPT among the tensors of a checkpoint, which it takes as they are. Raises RuntimeError for others than its own."""
    with torch.device("meta"):
        gpt = GPT(config.model, compute_dtype=dtype)
    gpt.load_state_dict(_part(state, "gpt."), assign=True)
    return gpt.eval()


def nets_from(
    state: Mapping[str, Tensor], config: RunConfig, device: torch.device | str, dtype: torch.dtype
) -> MegaContextNets | None:
    """GistNet, LensNet and what belongs to them; None where there are none. Raises RuntimeError for others than its own."""
    from mccore.megacontext.networks.networks import MegaContextNets

    weights = _part(state, "mc.")
    if not weights:
        return None
    nets = MegaContextNets(config.megacontext, config.model, dtype=dtype).to(device)
    nets.load_state_dict(weights)
    return nets.eval()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
