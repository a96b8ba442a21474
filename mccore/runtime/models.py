"""A checkpoint as a GPT, or as the networks of MegaContext."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mccore.config import RunConfig
from mccore.errors import CheckpointError

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
    config = RunConfig.model_validate(meta.config)
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
    config = RunConfig.model_validate(meta.config)
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
