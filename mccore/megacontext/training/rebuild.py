"""The loss of rebuilding blocks from their gists: what a gist says of its tokens without any context."""

from __future__ import annotations

import torch
from torch import Tensor

from mccore.megacontext.training.draw import DrawnStep, Purpose
from mccore.megacontext.training.models import Models


def rebuild_loss(models: Models, step: DrawnStep) -> Tensor:
    """The weak decoder's loss on some blocks of every row, each rebuilt from its LOD1 gist."""
    decoder, gists = models.nets.decoder, step.levels[1]  # [B, n, D]
    assert decoder is not None
    count, size = min(step.config.recon_blocks, gists.size(1)), step.config.block_size
    block = torch.arange(gists.size(1), device=gists.device)
    uniform = step.chance.uniform(Purpose.REBUILT, step.rows.unsqueeze(1), block)
    chosen = uniform.topk(count, dim=1).indices  # [B, count]
    picked = gists.gather(1, chosen.unsqueeze(-1).expand(-1, -1, gists.size(-1)))
    place = (chosen.unsqueeze(-1) * size + torch.arange(size, device=gists.device)).flatten(1)
    targets = step.batch.inputs.gather(1, place)  # [B, count * K]
    hidden = decoder(picked.flatten(0, 1)).view(len(gists), -1, gists.size(-1)).to(models.reader.compute_dtype)
    share = step.weights.sum(dim=1, keepdim=True) / (step.batch.step_targets * targets.size(1))
    loss, nll = models.reader.hidden_losses(hidden, targets, share.expand_as(targets))
    step.metrics.add("recon_loss", nll.sum(), torch.full((), float(nll.numel()), device=nll.device))
    return loss
