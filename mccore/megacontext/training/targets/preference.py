"""Preferences between Working Contexts of one history: LensNet's utilities against what the contexts were worth.

Contexts are small perturbations of one cut: they differ in which far blocks are tokens. The utility of a context is the sum of
LensNet's scores over the blocks that it shows as tokens; of two, only the blocks in which they differ count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.config import LensConfig
from mccore.megacontext.networks.lensnet import LensOutput, squash
from mccore.megacontext.networks.running_mean import RunningMean


class Preferences(NamedTuple):
    """Terms per row, fp32 [R], and counts over all rows, scalars without gradient."""

    loss: Tensor  # Bradley-Terry: mean over the row's pairs, each weighted by its gap
    rank: Tensor  # hinge on the margin, likewise
    right: Tensor  # pairs ordered rightly
    pairs: Tensor  # pairs with a gap


def preference_losses(
    utilities: Tensor,
    nll: Tensor,
    config: LensConfig,
    scale: RunningMean | None = None,
    step: int = 0,
    all_reduce: Callable[[Tensor], None] | None = None,
) -> Preferences:
    """Bradley-Terry over the pairs of contexts of each row.

    utilities: [R, V], LensNet's utility of V >= 2 contexts; nll: [R, V], their mean loss over the horizon, no gradient. All
    pairs are formed, the `hard_negative_ratio` with the largest gaps kept, at most `max_pairs` a row. `scale` is the running
    mean square of gaps: weights are in its units from the second step on, so that temperature means the same early and late.
    """
    variants = utilities.size(1)
    left, right = torch.triu_indices(variants, variants, offset=1, device=utilities.device)
    gap = (nll[:, right] - nll[:, left]).detach()  # > 0: the left one is better
    kept = max(1, min(config.max_pairs, round(config.hard_negative_ratio * gap.size(1))))
    chosen = gap.abs().topk(kept, dim=1).indices
    gap = gap.gather(1, chosen)
    lead = (utilities[:, left] - utilities[:, right]).gather(1, chosen)
    weight = gap.abs()
    if scale is not None:
        square = scale(gap.square().sum(), (gap != 0).sum(), config.adv_norm_beta, step, all_reduce)
        weight = weight / torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    signed = lead * gap.sign()
    loss = (weight * F.softplus(-signed / config.temperature)).mean(dim=1)
    rank = (weight * F.relu(config.rank_margin - signed)).mean(dim=1)
    counted = gap != 0
    return Preferences(loss, rank, ((signed > 0) & counted).sum(), counted.sum())


def budget_balance(output: LensOutput) -> Tensor:
    """How far what asks for detail and what can shrink are out of balance, in [-1, 1] per row, over the squashed scores of
    nodes: fp32 [R]."""
    values = squash(output.shares, output.mask.sum(dim=1)) * output.mask
    up, down = F.relu(values).sum(dim=1), F.relu(-values).sum(dim=1)
    return (up - down) / (up + down + 1e-6)


def policy_divergence(output: LensOutput, former: LensOutput) -> Tensor:
    """The symmetric KL between the shares that two policies give to the same nodes: fp32 [R]."""
    own, before = (torch.log_softmax(each.shares, dim=1) for each in (output, former))
    difference = torch.where(output.mask, own - before, torch.zeros_like(own))
    return ((own.exp() - before.exp()) * difference).sum(dim=1)
