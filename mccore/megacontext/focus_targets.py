"""What LensNet learns from: where the full context's attention goes, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from mccore.model.attention import Attend, attend


class AttentionMass:
    """An attention function that also records how much of each horizon query's attention falls on each block.

    Pass it as `GPT.hidden(attend=)` of a full-context pass over [B, T] tokens. `first` is the position of each row's first
    horizon query, int64 [B]; `count` queries follow each other from there. Recording carries no gradient.
    """

    def __init__(self, first: Tensor, count: int, block_size: int, blocks: int, base: Attend = attend) -> None:
        self._first = first
        self._count = count
        self._block_size = block_size
        self._blocks = blocks
        self._base = base
        self._layers: list[Tensor] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            self._layers.append(self._record(q.detach(), k.detach(), scale, window))
        return self._base(q, k, v, scale=scale, window=window, bias=bias)

    def _record(self, q: Tensor, k: Tensor, scale: float, window: int) -> Tensor:
        """The mass of each query on each block, the greatest over heads: fp32 [B, count, blocks]."""
        rows, heads, length, channels = q.shape
        position = self._first.unsqueeze(1) + torch.arange(self._count, device=q.device)  # [B, count]
        chosen = q.gather(2, position[:, None, :, None].expand(rows, heads, self._count, channels))
        keys = k.repeat_interleave(heads // k.size(1), dim=1)
        scores = (chosen @ keys.transpose(-1, -2)).float() * scale  # [B, H, count, T]
        at = torch.arange(length, device=q.device)
        hidden = at > position.unsqueeze(-1)
        if window:
            hidden = hidden | (at <= position.unsqueeze(-1) - window)
        shares = torch.softmax(scores.masked_fill(hidden.unsqueeze(1), -torch.inf), dim=-1)
        padding = self._blocks * self._block_size - length
        blocks = torch.nn.functional.pad(shares, (0, padding)).unflatten(-1, (self._blocks, self._block_size))
        return blocks.sum(dim=-1).amax(dim=1)

    def mass(self) -> Tensor:
        """The mean over layers, fp32 [B, count, blocks]."""
        return torch.stack(self._layers).mean(dim=0)


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


def group_scores(scores: Tensor, first: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Scores of nodes, the mean over their entries: fp32 [R, blocks] at the node's first block, and whether one is there."""
    zeros = torch.zeros(scores.size(0), blocks, device=scores.device, dtype=scores.dtype)
    total = zeros.scatter_add(1, first, scores)
    count = zeros.scatter_add(1, first, torch.ones_like(scores))
    return total / count.clamp(min=1), count > 0


def attention_loss(
    scores: Tensor, level: Tensor, index: Tensor, mass: Tensor, limit: Tensor, block_size: int
) -> tuple[Tensor, Tensor]:
    """KL from the attention on each node to the softmax of the nodes' scores, per row: fp32 [R]; and the nodes' scores
    with -inf where there is none, [R, blocks].

    Args:
        scores: LensNet's, fp32 [R, L], of entries `(level, index)` [R, L].
        mass: weighted attention on each block, [R, blocks]; only its proportions matter.
        limit: int64 [R], blocks before which nodes take part: those behind are in the recent tokens.
    """
    blocks = mass.size(1)
    first, node = node_of_block(level, index, block_size, blocks)
    inside = torch.arange(blocks, device=mass.device) < limit.unsqueeze(1)
    target = torch.zeros_like(mass).scatter_add(1, node, mass * inside)
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-9)
    values, there = group_scores(scores, first, blocks)
    values = values.masked_fill(~(there & inside), -torch.inf)
    shares = torch.log_softmax(values, dim=1)
    known = torch.where(target > 0, target.clamp(min=1e-12).log() - shares, torch.zeros_like(target))
    return (target * known).sum(dim=1), values
