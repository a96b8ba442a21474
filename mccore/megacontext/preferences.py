"""Preferences between Working Contexts of one history: LensNet's utilities against what the contexts were worth.

Contexts are small perturbations of one cut: they differ in which far blocks are tokens. The utility of a context is the sum of
LensNet's scores over the blocks that it shows as tokens; of two, only the blocks in which they differ count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.config import LensConfig
from mccore.megacontext.lensnet import Focus, squash


class Preferences(NamedTuple):
    """Terms per row, fp32 [R], and counts over all rows, scalars without gradient."""

    loss: Tensor  # Bradley-Terry: mean over the row's pairs, each weighted by its gap
    rank: Tensor  # hinge on the margin, likewise
    right: Tensor  # pairs ordered rightly
    pairs: Tensor  # pairs with a gap


class RunningMean(nn.Module):
    """An exponential mean over steps, the same however a step is split into passes and ranks.

    What the passes of a step bring is gathered and taken in when the next step begins; all passes of a step read the same
    value, 0 before there is one. `all_reduce` sums over the ranks. Everything is in buffers, so a checkpoint keeps it.
    """

    value: Tensor
    weight: Tensor
    total: Tensor
    count: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("value", "weight", "total", "count"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("step", torch.full((), -1.0))  # the step that `total` and `count` are of

    @torch.no_grad()
    def forward(
        self, total: Tensor, count: Tensor, beta: float, step: int, all_reduce: Callable[[Tensor], None] | None = None
    ) -> Tensor:
        """Gather a pass's sum and count, scalars, at `step`; returns the mean over the steps before."""
        begins = torch.full((), step, device=self.step.device) != self.step
        there = begins & (self.count > 0)
        mean = self.total / self.count.clamp(min=1)
        self.value.copy_(torch.where(there, beta * self.value + (1 - beta) * mean, self.value))
        self.weight.copy_(torch.where(there, beta * self.weight + (1 - beta), self.weight))
        self.total.mul_(~begins)
        self.count.mul_(~begins)
        self.step.fill_(step)
        found = torch.stack((total.detach().float(), count.detach().float()))
        if all_reduce is not None:
            all_reduce(found)
        self.total.add_(found[0])
        self.count.add_(found[1])
        return self.value / self.weight.clamp(min=1e-12)


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


def budget_balance(focus: Focus) -> Tensor:
    """How far what asks for detail and what can shrink are out of balance, in [-1, 1] per row, over the squashed scores of
    nodes: fp32 [R]."""
    values = squash(focus.shares, focus.there.sum(dim=1)) * focus.there
    up, down = F.relu(values).sum(dim=1), F.relu(-values).sum(dim=1)
    return (up - down) / (up + down + 1e-6)


def policy_divergence(focus: Focus, former: Focus) -> Tensor:
    """The symmetric KL between the shares that two policies give to the same nodes: fp32 [R]."""
    own, before = (torch.log_softmax(each.shares, dim=1) for each in (focus, former))
    difference = torch.where(focus.there, own - before, torch.zeros_like(own))
    return ((own.exp() - before.exp()) * difference).sum(dim=1)
