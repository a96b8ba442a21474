"""Attention by node: how much of the attention falls on each block and each gist."""

from __future__ import annotations

import torch
from torch import Tensor

from mccore.megacontext.networks.lensnet import LensOutput
from mccore.model.attention import Attend, attend


class AttentionMass:
    """An attention function that also records which blocks some queries attend to more than to others.

    Pass it as `GPT.hidden(attend=)` of a full-context pass over [B, T] tokens. `first` is the position of each row's first
    query, int64 [B]; `count` queries follow each other from there. Blocks from `limit` on, int64 [B], don't take part.
    Recording carries no gradient.

    What is recorded for a query is the one head of all layers that has decided most: its mass on each block above its mean
    over blocks, where that peaks highest. Heads that have decided nothing spread their mass evenly, and in a mean over heads
    they would drown the one that has.
    """

    def __init__(
        self, first: Tensor, count: int, block_size: int, blocks: int, limit: Tensor, base: Attend = attend
    ) -> None:
        self._first = first
        self._count = count
        self._block_size = block_size
        self._blocks = blocks
        self._taken = torch.arange(blocks, device=first.device) < limit.unsqueeze(1)  # [B, blocks]
        self._base = base
        self._excess: Tensor | None = None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            found = self._record(q.detach(), k.detach(), scale, window)
            if self._excess is not None:
                higher = found.amax(dim=-1, keepdim=True) > self._excess.amax(dim=-1, keepdim=True)
                found = torch.where(higher, found, self._excess)
            self._excess = found
        return self._base(q, k, v, scale=scale, window=window, bias=bias)

    def _record(self, q: Tensor, k: Tensor, scale: float, window: int) -> Tensor:
        """fp32 [B, count, blocks]."""
        rows, heads, length, channels = q.shape
        position = self._first.unsqueeze(1) + torch.arange(self._count, device=q.device)  # [B, count]
        position = position.clamp(0, length - 1)
        chosen = q.gather(2, position[:, None, :, None].expand(rows, heads, self._count, channels))
        keys = k.repeat_interleave(heads // k.size(1), dim=1)
        scores = (chosen @ keys.transpose(-1, -2)).float() * scale  # [B, H, count, T]
        at = torch.arange(length, device=q.device)
        hidden = at > position.unsqueeze(-1)
        if window:
            hidden = hidden | (at <= position.unsqueeze(-1) - window)
        shares = torch.softmax(scores.masked_fill(hidden.unsqueeze(1), -torch.inf), dim=-1)
        padding = self._blocks * self._block_size - length
        shares = torch.nn.functional.pad(shares, (0, padding))
        mass = shares.unflatten(-1, (self._blocks, self._block_size)).sum(dim=-1)
        taken = self._taken[:, None, None]
        mass = mass * taken
        mean = mass.sum(dim=-1, keepdim=True) / taken.sum(dim=-1, keepdim=True).clamp(min=1)
        excess = (mass - mean).clamp(min=0) * taken  # [B, H, count, blocks]
        head = excess.amax(dim=-1).argmax(dim=1)  # [B, count]
        return excess.gather(1, head[:, None, :, None].expand(-1, 1, -1, self._blocks)).squeeze(1)

    def excess(self) -> Tensor:
        """fp32 [B, count, blocks], each in [0, 1]."""
        assert self._excess is not None
        return self._excess


def node_of_block(level: Tensor, index: Tensor, block_size: int, blocks: int) -> tuple[Tensor, Tensor]:
    """For entries [R, L]: the first block under each one's node, tokens counting as nodes of their block, int64 [R, L];
    and for every block the first block of the node over it, int64 [R, blocks].
    """
    group = torch.pow(torch.full_like(level, block_size), (level - 1).clamp(min=0))  # blocks under each entry
    first = torch.where(level == 0, index // block_size, index * group)
    width = torch.zeros(level.size(0), blocks, dtype=torch.int64, device=level.device)
    width = width.scatter(1, first.clamp(max=blocks - 1), group)
    start = torch.arange(blocks, device=level.device) * (width > 0)
    return first, start.cummax(dim=1).values


def by_node(of_blocks: Tensor, output: LensOutput, level: Tensor, index: Tensor, block_size: int) -> Tensor:
    """Sums of what blocks have, [R, Q, blocks], over the nodes that LensNet saw: [R, Q, L] at the nodes' numbers."""
    blocks = of_blocks.size(2)
    number = number_of_block(output, level, index, block_size, blocks)
    found = of_blocks.new_zeros(of_blocks.size(0), of_blocks.size(1), level.size(1))
    return found.scatter_add(2, number.unsqueeze(1).expand_as(of_blocks), of_blocks)


def number_of_block(output: LensOutput, level: Tensor, index: Tensor, block_size: int, blocks: int) -> Tensor:
    """The number of the node over each block, int64 [R, blocks]."""
    first, over = node_of_block(level, index, block_size, blocks)
    number = torch.zeros(level.size(0), blocks, dtype=torch.int64, device=level.device)
    return number.scatter(1, first.clamp(max=blocks - 1), output.node).gather(1, over)


def block_scores(output: LensOutput, level: Tensor, index: Tensor, block_size: int, blocks: int) -> Tensor:
    """The score of the node over each block, fp32 [R, blocks]; very low for blocks that don't take part."""
    return output.shares.gather(1, number_of_block(output, level, index, block_size, blocks))
