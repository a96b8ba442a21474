"""The plain next-token pass: what keeps the model a good plain model, and the teacher of the variants."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mccore.megacontext.networks.nodes import AttentionMass
from mccore.megacontext.training.draw import DrawnStep, PlainPart
from mccore.megacontext.training.models import Models


class PlainRead(NamedTuple):
    """What the plain pass leaves for the variants. Tokens it didn't read have zeros."""

    read: Tensor  # bool [B, T]
    nll: Tensor  # fp32 [B, T], no gradient
    hidden: Tensor | None  # [B, T, D], no gradient; for distillation
    attention: Tensor | None  # [B, Q + H, blocks], of the last history tokens and the horizon; for LensNet


def plain_pass(models: Models, step: DrawnStep) -> tuple[PlainRead, Tensor]:
    """Read the step's plain part; returns what was read, and the loss."""
    part, gpt = step.plain, models.gpt
    if part is None:
        nothing = torch.zeros_like(step.weights)
        return PlainRead(nothing > 0, nothing, None, None), step.embeddings.sum() * 0.0
    recorder = _recorder(models, step, part)
    inputs, targets, weights = (part.tokens_of(x) for x in (step.batch.inputs, step.batch.targets, step.weights))
    hidden = models.read_plain(
        embeddings=part.tokens_of(step.embeddings),
        value_embeddings=gpt.embed_values(inputs),
        positions=_positions(step, part),
        attend=recorder,
    )
    loss, nll = gpt.hidden_losses(hidden, targets, weights / (part.share * step.batch.step_targets))
    mask = weights > 0
    step.metrics.add("token_loss", (nll * mask).sum(), mask.sum())
    return (
        PlainRead(
            part.to_tokens(torch.ones_like(nll)) > 0,
            part.to_tokens(nll),
            part.to_tokens(hidden.detach()) if step.config.distill_weight else None,
            part.to_rows(recorder.excess()) if recorder else None,
        ),
        loss,
    )


def _recorder(models: Models, step: DrawnStep, part: PlainPart) -> AttentionMass | None:
    """What records the attention that LensNet learns from, where it does."""
    config = step.config
    if not step.focused or config.lens.target == "preference":
        return None
    queries = config.lens.queries + config.horizon
    first, limit = part.rows_of(step.ends) - queries, part.rows_of(step.editable_blocks)
    blocks = -(-part.shape[1] // config.block_size)
    return AttentionMass(first, queries, config.block_size, blocks, limit, models.gpt.attend)


def _positions(step: DrawnStep, part: PlainPart) -> Tensor | None:
    """The positions of the tokens read, int64 [b, P], where recent ones are moved away from the far past."""
    if step.skip is None:
        return None
    position = torch.arange(part.shape[1], device=step.ends.device).expand(part.shape[0], -1)
    recent = position >= (step.ends - step.config.recent_tokens).unsqueeze(1)
    return part.tokens_of(position + recent * step.skip.unsqueeze(1))
