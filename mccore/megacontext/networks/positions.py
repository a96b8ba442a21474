"""Positions of entries that stand for many tokens: rotary angles of a span.

A gist covers the tokens around its centre mu, spread with standard deviation sigma = span / sqrt(12). The mean of a rotation
by position * omega over that spread is a rotation by mu * omega, damped by about exp(-(sigma * omega)^2 / 2): what the span
hasn't got, a definite phase at that frequency, isn't claimed. Tokens have sigma 0: their angles are the plain ones, bit for
bit.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mccore.config import ModelConfig
from mccore.model.rotary import Rotary, rotary

Positional = Literal["simple", "gaussian", "gaussian_alibi", "gaussian_lod2d"]
TokenPositions = Literal["absolute", "contiguous"]

LEVEL_PHASE_SHARE = 4  # with gaussian_lod2d, one in so many frequencies, the slowest ones, turns by level


class Spans(NamedTuple):
    """Where entries lie, in tokens: level int64, centre and span fp64, each [R, L]."""

    level: Tensor
    centre: Tensor
    span: Tensor


def spans_of(level: Tensor, index: Tensor, block_size: int) -> Spans:
    """The spans of nodes `(level, index)`, int64 [R, L]. `centre` is a token's own position at LOD0."""
    span = torch.pow(torch.full_like(level, block_size, dtype=torch.float64), level)
    return Spans(level, index * span + (span - 1) / 2, span)


def contiguous(spans: Spans) -> Spans:
    """The same entries of whole cuts with their tokens numbered without gaps, back from the newest one: tokens shown from far
    away then meet the distances that a window of tokens has. Gists stay where they are. What fills a row behind its newest
    entry doesn't count."""
    raw = spans.level == 0
    stop, newest = (spans.centre + (spans.span + 1) / 2).max(dim=-1, keepdim=True)
    count = raw.cumsum(dim=-1)
    behind = count.gather(-1, newest) - count + 1  # tokens from each one on
    return spans._replace(centre=torch.where(raw, stop - behind, spans.centre))


def span_rotary(spans: Spans, config: ModelConfig, kind: Positional) -> Rotary:
    """Cosines and sines of entries, each fp32 [R, L, C / 2].

    `simple` turns by the centre alone; the others damp by the spread as well, and `gaussian_lod2d` adds a phase per level to
    the slowest frequencies. A token's are those of `model.rotary`, exactly.
    """
    half = config.head_dim // 2
    plain = rotary(spans.centre, config.head_dim, config.rope_base)
    if kind == "simple":
        return plain
    coarse = (spans.level > 0).unsqueeze(-1)
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device=spans.centre.device) / config.head_dim
    frequencies = config.rope_base**-exponents  # [C/2]
    sigma = spans.span / math.sqrt(12)
    damping = torch.exp(-0.5 * (sigma.unsqueeze(-1) * frequencies) ** 2).float()
    cos, sin = plain
    if kind == "gaussian_lod2d":
        turning = torch.arange(half, device=sigma.device) >= half - max(1, half // LEVEL_PHASE_SHARE)
        phase = spans.level.unsqueeze(-1) * turning  # one radian per level
        cos, sin = cos * phase.cos() - sin * phase.sin(), sin * phase.cos() + cos * phase.sin()
    return Rotary(
        torch.where(coarse, cos * damping, plain.cos).float(), torch.where(coarse, sin * damping, plain.sin).float()
    )
