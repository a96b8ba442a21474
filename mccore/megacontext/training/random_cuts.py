"""Cuts for training, drawn on the device: all rows at once, one common length, no Python per row, no wait for the device.

A cut of `[0, t)` into L entries has collapsed m = (t - L) / (K - 1) nodes, counting every node on the way up: a node at
LOD k stands for 1 + K + ... + K^(k-1) collapses. So a draw is a choice of nodes with that many collapses in all: the coarse
ones first, then blocks. What is chosen is decided by priorities alone: random ones give random cuts, ages give a recency
pyramid, scores of LensNet give the policy's own.

Random numbers are hashes of (seed, step, row, what for): the same row gets the same cut on any number of ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mccore.errors import ConfigError


class CutShape(NamedTuple):
    """What all rows of a draw share."""

    tokens: int  # T: tokens of a row
    length: int  # L: entries of a cut
    block_size: int
    max_lod: int
    recent_tokens: int  # newest tokens that stay at LOD0

    @property
    def blocks(self) -> int:
        """Blocks of a row, a partial one included."""
        return -(-self.tokens // self.block_size)


def reachable_length(wanted: int, shape: CutShape) -> int:
    """The shortest length of a cut of all T tokens that isn't below `wanted`, or the shortest there is if that is longer."""
    step = shape.block_size - 1
    most = _capacity((shape.tokens - shape.recent_tokens) // shape.block_size, shape)
    return shape.tokens - step * max(0, min((shape.tokens - wanted) // step, most))


def _capacity(blocks: int, shape: CutShape) -> int:
    """Collapses that `blocks` complete blocks allow."""
    return sum(blocks // shape.block_size**lod for lod in range(shape.max_lod))


def draw_cuts(
    shape: CutShape,
    ends: Tensor,
    priority: Tensor,
    coarse_probability: float,
    uniform: Tensor,
    protected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cuts of `[0, ends[r])` as level and index, int64 [R, L].

    Args:
        ends: int64 [R], tokens that each cut covers; `(ends - L)` is a multiple of K - 1.
        priority: fp32 [R, blocks], blocks with higher ones are collapsed first.
        coarse_probability: share of nodes at LOD2 and above that are used where possible.
        uniform: fp32 [R, max_lod - 1, blocks], numbers in [0, 1) that decide how many coarse nodes a row gets.
        protected: bool [R, blocks], blocks that stay at LOD0 if at all possible.
    """
    size, blocks = shape.block_size, shape.blocks
    device = ends.device
    wanted = (ends - shape.length) // (size - 1)  # [R] collapses still to choose
    block = torch.arange(blocks, device=device)
    free = (block + 1) * size <= (ends - shape.recent_tokens).unsqueeze(1)  # [R, blocks]
    if protected is not None:
        # Protection yields where too few blocks would be left.
        priority = torch.where(protected, priority - 1e6, priority)
    state = torch.zeros_like(free, dtype=torch.int64)  # the level of the node over each block
    for lod in range(shape.max_lod, 1, -1):
        group = size ** (lod - 1)  # blocks under a node
        nodes = blocks // group
        if nodes == 0:
            continue
        inside = slice(0, nodes * group)
        eligible = (free & (state == 0))[:, inside].unflatten(1, (nodes, group)).all(dim=2)  # [R, nodes]
        preferred = eligible
        if protected is not None:
            preferred = eligible & ~protected[:, inside].unflatten(1, (nodes, group)).any(dim=2)
        importance = priority[:, inside].unflatten(1, (nodes, group)).mean(dim=2)
        unit = sum(size**power for power in range(lod))  # collapses that a node is worth
        least = (wanted - _open_capacity(free & (state == 0), lod - 1, size)).clamp(min=0)
        most = torch.minimum(wanted // unit, eligible.sum(dim=1))
        drawn = ((uniform[:, lod - 2, :nodes] < coarse_probability) & preferred).sum(dim=1)
        count = torch.maximum(drawn, least)
        if protected is not None:
            unprotected = free & (state == 0) & ~protected
            spared = (wanted - _open_capacity(unprotected, lod - 1, size)).clamp(min=0)
            count = torch.maximum(count, torch.minimum(spared, preferred.sum(dim=1)))
        count = torch.minimum(count, most)
        chosen = eligible & (_rank(importance.masked_fill(~eligible, -torch.inf)) < count.unsqueeze(1))
        covered = chosen.repeat_interleave(group, dim=1)
        state[:, inside] = torch.where(covered, lod, state[:, inside])
        wanted = wanted - count * unit
    open_block = free & (state == 0)
    chosen = open_block & (_rank(priority.masked_fill(~open_block, -torch.inf)) < wanted.unsqueeze(1))
    state = torch.where(chosen, 1, state)
    return entries_of(shape, state)


def entries_of(shape: CutShape, state: Tensor) -> tuple[Tensor, Tensor]:
    """Level and index [R, L] of the first L entries of cuts given by the level over each block, int64 [R, blocks]."""
    size = shape.block_size
    block = torch.arange(shape.blocks, device=state.device)
    group = size ** (state - 1).clamp(min=0)  # blocks under the node over each block
    counts = torch.where(state == 0, size, (block % group == 0).long())  # entries that begin in each block
    ends = counts.cumsum(dim=1)
    entry = torch.arange(shape.length, device=state.device).expand(state.size(0), -1).contiguous()
    at = torch.searchsorted(ends, entry, right=True).clamp(max=shape.blocks - 1)  # [R, L] the block of each entry
    level = state.gather(1, at)
    inside = entry - (ends - counts).gather(1, at)
    index = torch.where(level == 0, at * size + inside, at // group.gather(1, at))
    return level, index


def _open_capacity(open_block: Tensor, top: int, size: int) -> Tensor:
    """Collapses up to level `top` that open blocks, bool [R, blocks], allow: int64 [R]."""
    total = open_block.sum(dim=1)
    for lod in range(2, top + 1):
        group = size ** (lod - 1)
        nodes = open_block.size(1) // group
        if nodes:
            total = total + open_block[:, : nodes * group].unflatten(1, (nodes, group)).all(dim=2).sum(dim=1)
    return total


def _rank(priority: Tensor) -> Tensor:
    """Each element's place in its row [R, n] by descending priority; of two alike the earlier comes first."""
    order = priority.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def shortest(tokens: int, shape: CutShape) -> int:
    """Entries of the shortest cut of `[0, tokens)`."""
    editable = max(0, tokens - shape.recent_tokens) // shape.block_size
    return tokens - (shape.block_size - 1) * _capacity(editable, shape)


def possible_ends(shape: CutShape, least: int) -> list[int]:
    """Every t from `least` to T for which a cut of `[0, t)` with L entries exists, ascending."""
    step = shape.block_size - 1
    first = shape.length + step * max(0, -(-(least - shape.length) // step))
    return [t for t in range(first, shape.tokens + 1, step) if shortest(t, shape) <= shape.length]


def check_shape(shape: CutShape) -> None:
    """Raise ConfigError for a shape that has no cut of all T tokens."""
    found = shortest(shape.tokens, shape)
    if shape.length < found or (shape.tokens - shape.length) % (shape.block_size - 1):
        raise ConfigError(
            f"no Working Context of {shape.length} entries covers {shape.tokens} tokens with blocks of {shape.block_size} "
            f"and {shape.recent_tokens} recent tokens; the shortest has {found}",
            hint="raise megacontext.train_wc_length, or lower megacontext.block_size or megacontext.recent_tokens",
        )
