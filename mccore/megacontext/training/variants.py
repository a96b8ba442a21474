"""The passes over Working Contexts: next-token losses of every entry, beside what the plain pass knew.

The entry that ends at token p predicts token p + 1. Training on gist-only and on expanded variants is what makes gists carry
something and an expansion useful.

Shapes: R contexts of L entries, D channels, H tokens of the horizon.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mccore.megacontext.training.draw import DrawnStep
from mccore.megacontext.training.models import Models
from mccore.megacontext.training.plain_pass import PlainRead
from mccore.megacontext.training.variant_cuts import DrawnVariants
from mccore.megacontext.working_context import WorkingContexts, context_targets, model_inputs


class VariantPass(NamedTuple):
    """Variants of one kind and what they predicted."""

    contexts: WorkingContexts
    targets: Tensor  # int64 [R, L]
    nll: Tensor  # fp32 [R, L], no gradient
    loss: Tensor


class _Teacher(NamedTuple):
    """What the plain pass knew at the last token of each entry."""

    mask: Tensor  # bool [R, L], whether it read that token
    nll: Tensor  # fp32 [R, L]


def read_variants(models: Models, step: DrawnStep, drawn: DrawnVariants, plain: PlainRead) -> VariantPass:
    """Read the contexts of one kind; the loss is the mean over all variants of the step."""
    config, contexts = step.config, drawn.contexts
    with models.timings("positional_ms"):
        inputs = model_inputs(
            models.reader, contexts, step.batch.inputs, models.nets.bias, config.positional, config.token_positions
        )
    with models.timings("variant_ms"):
        hidden = models.read_variants(**inputs)
    targets = context_targets(contexts, step.batch.targets)
    teacher = _Teacher(*(x[contexts.row].gather(1, contexts.last) for x in (plain.read, plain.nll)))
    weights = _target_weights(step, drawn)
    if config.key_token_weight:
        with torch.no_grad():
            nll = models.reader.hidden_losses(hidden, targets, torch.zeros_like(weights))[1]
        missed = torch.expm1(nll - teacher.nll).clamp(0, config.key_token_weight)
        weights = weights * (1 + missed * ((contexts.level == 0) & teacher.mask))
    with models.timings("variant_ms"):
        loss, nll = models.reader.hidden_losses(hidden, targets, weights)
    paired = _record(step, drawn, nll, teacher)
    if plain.hidden is not None:
        horizon = slice(-config.horizon, None)
        last = contexts.last[:, horizon].unsqueeze(-1).expand(-1, -1, hidden.size(-1))
        teacher_hidden = plain.hidden[contexts.row].gather(1, last)
        weight = weights[:, horizon] * teacher.mask[:, horizon]
        term, divergence = models.reader.distillation(hidden[:, horizon], teacher_hidden, weight)
        mask = paired[:, horizon]
        step.metrics.add("distill_loss", (divergence * mask).sum(), mask.sum())
        loss = loss + config.distill_weight * term
    return VariantPass(contexts, targets, nll, loss)


def _target_weights(step: DrawnStep, drawn: DrawnVariants) -> Tensor:
    """The share of the step's loss that each entry's target has, fp32 [R, L]."""
    config, contexts, length = step.config, drawn.contexts, drawn.shape.length
    scored = drawn.weights * torch.where(contexts.level == 0, 1.0, config.gist_target_weight)
    if drawn.informed is not None:
        # What chose had seen all of the history: only what comes behind it may be predicted from that.
        behind = torch.arange(length, device=scored.device) >= length - config.horizon
        scored = scored * (behind | ~drawn.informed)
    # Each row counts as much as its tokens do in the plain loss, whatever the cut shows of it; but where it shows next to
    # none of the trained ones, those few don't stand for all.
    missing = step.weights.sum(dim=1)[contexts.row] / scored.sum(dim=1).clamp(min=1e-9)
    share = scored * missing.clamp(max=drawn.shape.tokens / length).unsqueeze(1)
    return share / (step.batch.step_targets * config.num_random_variants)


def _record(step: DrawnStep, drawn: DrawnVariants, nll: Tensor, teacher: _Teacher) -> Tensor:
    """Enter the losses by level, and beside the plain pass those of tokens it read too: these, bool [R, L], are returned."""
    metrics, level, mask = step.metrics, drawn.contexts.level, drawn.weights > 0
    raw = level == 0
    for lod in range(step.config.max_lod + 1):
        of_level = mask & (level == lod)
        metrics.add(f"lod_loss/{lod}", (nll * of_level).sum(), of_level.sum())
    metrics.add("gist_loss", (nll * (mask & ~raw)).sum(), (mask & ~raw).sum())
    paired = mask & raw & teacher.mask
    gap = torch.where(paired, nll - teacher.nll, torch.zeros_like(nll))
    metrics.add("adv_delta", gap.sum(), paired.sum())
    metrics.add("adv_delta/p95", *_percentile_95(gap.sum(dim=1) / paired.sum(dim=1).clamp(min=1), paired.any(dim=1)))
    horizon = slice(-step.config.horizon, None)
    metrics.add("delta_nll", gap[:, horizon].sum(), paired[:, horizon].sum())
    return paired


def _percentile_95(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The least of the values [R] that 95 % of those in `mask` don't exceed, and 1; 0 and 0 where there are none."""
    count = mask.sum()
    ordered = values.masked_fill(~mask, torch.inf).sort().values
    place = (torch.ceil(0.95 * count).long() - 1).clamp(min=0)
    result = ordered.gather(0, place.unsqueeze(0)).squeeze(0)
    one = (count > 0).to(result.dtype)
    return torch.where(count > 0, result, torch.zeros_like(result)), one
