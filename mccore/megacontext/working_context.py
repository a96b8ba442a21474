"""Working Contexts as the GPT reads them: a cut's entries gathered from the pyramid, with positions, biases and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.megacontext.networks.gistnet import pool_of
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.networks.positions import (
    Positional,
    Spans,
    TokenPositions,
    contiguous,
    span_rotary,
    spans_of,
)
from mccore.megacontext.networks.span_bias import SpanBias
from mccore.model.gpt import GPT


@dataclass(frozen=True)
class WorkingContexts:
    """R cuts of equal length L over rows of a batch."""

    row: Tensor  # int64 [R], the row of the batch that each cut is of
    level: Tensor  # int64 [R, L]
    index: Tensor  # int64 [R, L]
    spans: Spans
    last: Tensor  # int64 [R, L], the last token under each entry
    embeddings: Tensor  # [R, L, D]


def assemble(
    levels: Sequence[Tensor],
    row: Tensor,
    level: Tensor,
    index: Tensor,
    block_size: int,
    offset: Tensor | None = None,
) -> WorkingContexts:
    """Cuts `(level, index)` [R, L] of the rows `row` [R], from a pyramid of levels [B, n_k, D], in one gather.

    offset: int64 [R, L], added to the positions (not the tokens) of entries, for training with skipped positions.
    """
    pool, offsets = pool_of(levels)
    begins = torch.zeros_like(level)
    for lod, (before, begin) in enumerate(pairwise(offsets), start=1):  # numbers, not a tensor: no copy to the device
        begins = begins + (level >= lod) * (begin - before)
    flat = row.unsqueeze(1) * pool.size(1) + begins + index
    embeddings = F.embedding(flat, pool.flatten(0, 1))  # its backward adds up repeated rows quickly
    spans = spans_of(level, index, block_size)
    last = ((index + 1) * spans.span).long() - 1
    if offset is not None:
        spans = spans._replace(centre=spans.centre + offset)
    return WorkingContexts(row, level, index, spans, last, embeddings)


def model_inputs(
    gpt: GPT,
    contexts: WorkingContexts,
    tokens: Tensor,
    bias: SpanBias | None,
    positional: Positional,
    token_positions: TokenPositions = "absolute",
) -> dict[str, Any]:
    """Keyword arguments of `GPT.hidden` for Working Contexts; `tokens` int64 [B, T] are the rows they were cut from.

    Value embeddings of gists are zero. An entry takes its share of the one before it only where both are tokens: the token
    behind a collapsed block must not see that block's last one.
    """
    raw = contexts.level == 0
    spans = contiguous(contexts.spans) if token_positions == "contiguous" else contexts.spans
    inputs: dict[str, Any] = {
        "embeddings": contexts.embeddings,
        "rotary": span_rotary(spans, gpt.config, positional),
    }
    if gpt.value_embeddings:
        own = tokens[contexts.row].gather(1, torch.where(raw, contexts.index, 0))
        inputs["value_embeddings"] = gpt.embed_values(torch.where(raw, own, -1))
    if gpt.config.smear:
        inputs["smear_mask"] = F.pad(raw[:, 1:] & raw[:, :-1], (1, 0))
    if bias is not None:
        inputs["key_bias"] = bias.features(contexts.spans)
        inputs["key_bias_weights"] = bias.weights
    return inputs


def context_inputs(gpt: GPT, nets: MegaContextNets, contexts: WorkingContexts, tokens: Tensor) -> dict[str, Any]:
    """`model_inputs` with the bias and the positions of these networks, as sessions and evaluations read."""
    config = nets.config
    return model_inputs(gpt, contexts, tokens, nets.bias, config.positional, config.token_positions)


def context_targets(contexts: WorkingContexts, targets: Tensor) -> Tensor:
    """The target of each entry, int64 [R, L]: the token behind its last one. `targets` [B, T] are those of the rows."""
    return targets[contexts.row].gather(1, contexts.last)
