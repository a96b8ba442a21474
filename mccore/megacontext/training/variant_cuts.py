"""The Working Contexts of a step's variants: cuts of all rows at once.

Gist-only variants collapse the oldest blocks. Expanded ones keep a few far blocks as tokens, chosen at random, by LensNet or by a
search of the history, or collapse blocks anywhere.

Shapes: R = variants x B contexts of L entries, over rows with T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.megacontext.search.batched import span_scores
from mccore.megacontext.search.bigram_index import MAX_ID
from mccore.megacontext.training.draw import DrawnStep, Purpose, VariantKind
from mccore.megacontext.training.random_cuts import CutShape, draw_cuts
from mccore.megacontext.working_context import WorkingContexts, assemble


class DrawnVariants(NamedTuple):
    """Variants of one kind, all those of the first variant number before those of the next."""

    shape: CutShape
    contexts: WorkingContexts  # `contexts.row` is the row of the batch, int64 [R]
    weights: Tensor  # fp32 [R, L], of the target of each entry
    informed: Tensor | None  # bool [R, 1], whether what had read all of the history chose the tokens; None: nowhere


class _Rows(NamedTuple):
    """The rows of variants."""

    index: Tensor  # int64 [R], in the batch
    number: Tensor  # int64 [R], in the step
    ends: Tensor  # int64 [R]
    variant: Tensor  # int64 [R]


def draw_variants(step: DrawnStep, kind: VariantKind, scores: Tensor | None) -> DrawnVariants:
    """The contexts of all variants of a kind; `scores` fp32 [B, blocks] are LensNet's, where it may choose blocks."""
    index = torch.arange(len(step.rows), device=step.rows.device).repeat(kind.count)
    variant = torch.arange(kind.count, device=index.device).repeat_interleave(len(step.rows)) * 2 + kind.expanded
    rows = _Rows(index, step.rows[index], step.ends[index], variant)
    block = torch.arange(kind.shape.blocks, device=index.device)
    priority = -block.float().expand(len(index), -1)
    protected = informed = None
    if kind.expanded:
        priority, protected, informed = _expand(step, kind.shape, rows, scores)
    power = torch.arange(max(1, step.config.max_lod - 1), device=index.device).view(1, -1, 1)
    uniform = step.chance.uniform(
        Purpose.COARSE, rows.number.view(-1, 1, 1), variant.view(-1, 1, 1), power, block.view(1, 1, -1)
    )
    level, place = draw_cuts(kind.shape, rows.ends, priority, step.config.lod2_probability, uniform, protected)
    offset: Tensor | None = None
    if step.skip is not None:
        recent = torch.arange(kind.shape.length, device=index.device) >= kind.shape.length - kind.shape.recent_tokens
        offset = step.skip[index].unsqueeze(1) * recent
    contexts = assemble(step.levels, index, level, place, step.config.block_size, offset)
    return DrawnVariants(kind.shape, contexts, step.weights[index].gather(1, contexts.last), informed)


def _expand(
    step: DrawnStep, shape: CutShape, rows: _Rows, scores: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Priorities of blocks for being collapsed, fp32 [R, blocks], the blocks that stay tokens, bool [R, blocks], and which
    variants show what LensNet or the search chose, bool [R, 1]."""
    config, chance = step.config, step.chance
    block = torch.arange(shape.blocks, device=rows.index.device)
    row, variant = rows.number.unsqueeze(1), rows.variant.unsqueeze(1)
    informed: Tensor | None = None
    kind = chance.uniform(Purpose.KIND, row, variant)
    anywhere = kind < config.random_share
    oldest = -block.float().expand(len(rows.index), -1)
    priority = torch.where(anywhere, chance.uniform(Purpose.BLOCKS, row, variant, block), oldest)
    wish = chance.uniform(Purpose.EXPANDED, row, variant, block // config.expanded_run)
    if scores is not None:
        uniform = chance.uniform(Purpose.POLICY, row, variant, block).clamp(1e-6, 1 - 1e-6)
        gumbel = -torch.log(-torch.log(uniform))
        informed = kind > 1 - config.policy_share
        wish = torch.where(informed, scores[rows.index] + gumbel, wish)
    if config.search_share:
        by_search = ~anywhere & (kind < config.random_share + config.search_share)
        wish = torch.where(by_search, _search(step, shape, rows) + wish, wish)
        informed = by_search if informed is None else informed | by_search
    far = (block + 1) * shape.block_size <= (rows.ends - shape.recent_tokens).unsqueeze(1)
    # Blocks that a recency pyramid of this length would collapse: the newest are tokens anyway.
    collapsed = ((rows.ends - shape.length) // (shape.block_size - 1)).unsqueeze(1)
    far = far & (block < collapsed + config.expanded_blocks)
    chosen = wish.masked_fill(~far, -torch.inf).topk(min(config.expanded_blocks, shape.blocks), dim=1).indices
    return priority, torch.zeros_like(far).scatter(1, chosen, True) & far & ~anywhere, informed


def _search(step: DrawnStep, shape: CutShape, rows: _Rows) -> Tensor:
    """What the last tokens before the horizon ask for, fp32 [R, blocks]: 1 or more for blocks of runs that the search scores,
    0 for the others."""
    config, size = step.config, shape.block_size * step.config.expanded_run
    tokens, end = step.batch.inputs[rows.index], (rows.ends - config.horizon).unsqueeze(1)
    place = end - config.search.query_tokens + torch.arange(config.search.query_tokens, device=end.device)
    query = tokens.gather(1, place.clamp(min=0))
    # The future isn't searched: an id that no tokenizer has stands there.
    tokens = torch.where(torch.arange(shape.tokens, device=end.device) < end, tokens, MAX_ID)
    scores = span_scores(tokens, query, size, config.search.half_life)
    scores = torch.where(scores > 0, 1 + scores, scores).repeat_interleave(config.expanded_run, dim=1)
    return F.pad(scores, (0, shape.blocks - scores.size(1)))
