"""What LensNet learns from: where the full context's attention goes, block by block, for every token that asks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mccore.megacontext.networks.lensnet import LensOutput


class AttentionLosses(NamedTuple):
    """Per row, fp32 [R]."""

    focus: Tensor  # KL from the horizon's attention to the scores
    questions: Tensor  # KL from each query's attention to its own shares, mean weighted by how much attention there is
    uninformed: Tensor  # KL from the horizon's attention to even shares of all nodes that take part


def attention_losses(
    output: LensOutput, wanted: Tensor, weights: Tensor, asking: Tensor | None = None
) -> AttentionLosses:
    """How far LensNet is from the attention that was paid.

    wanted: fp32 [R, Q, L], attention of every query of `output.questions` on nodes (`by_node`); weights: fp32 [R, H], of the
    last H queries, those of the horizon, in what the scores have to foresee; asking: fp32 [R, Q], of every query in what it
    has to ask itself, default 1.
    """
    horizon = weights.size(1)
    foreseen = (wanted[:, -horizon:] * weights.unsqueeze(-1)).sum(dim=1)  # [R, L]
    scores = torch.log_softmax(output.shares, dim=1)
    mass = wanted.sum(dim=2) if asking is None else wanted.sum(dim=2) * asking
    each = _divergence(wanted, output.questions)  # [R, Q]
    questions = (each * mass).sum(dim=1) / mass.sum(dim=1).clamp(min=1e-6)
    even = -torch.log(output.mask.sum(dim=1, keepdim=True).clamp(min=1).float()).expand_as(scores)
    return AttentionLosses(_divergence(foreseen, scores), questions, _divergence(foreseen, even))


def _divergence(wanted: Tensor, shares: Tensor) -> Tensor:
    """KL(wanted / its sum || exp(shares)) over the last dimension; 0 where nothing is wanted."""
    target = wanted / wanted.sum(dim=-1, keepdim=True).clamp(min=1e-9)
    return torch.where(target > 0, target * (target.clamp(min=1e-12).log() - shares), 0.0).sum(dim=-1)
