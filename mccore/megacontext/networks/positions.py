"""Positions of entries that stand for many tokens: rotary angles of a span, and the score bias of its key.

A gist covers the tokens around its centre mu, spread with standard deviation sigma = span / sqrt(12). The mean of a rotation
by position * omega over that spread is a rotation by mu * omega, damped by about exp(-(sigma * omega)^2 / 2): what the span
hasn't got, a definite phase at that frequency, isn't claimed. Tokens have sigma 0: their angles are the plain ones, bit for
bit. One key stands for `span` keys in a softmax, so its score starts with ln(span) more, by head and layer, learned.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

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


def excess_mass(tokens: int, most: int) -> float:
    """By how much gists that cover so many tokens weigh more than `most` tokens: in ln.

    Keys that stand for ln(span) tokens each would, in a history a hundred times as long, take nearly all attention from the
    newest tokens, whatever they are about: so together they weigh so much at most. In steps of a factor of two, so that biases
    that are held change rarely.
    """
    return max(0, math.ceil(math.log2(max(tokens, 1) / most))) * math.log(2)


class SpanBias(nn.Module):
    """Learned weights of an additive score bias on gist keys, as `GPT.hidden(key_bias=, key_bias_weights=)` takes it.

    Features of an entry: ln(span), weighted 1 at the start; with `gaussian_alibi` also -ln(1 + distance / K), its distance
    to the newest token in blocks, weighted 2^(-8 h / H) at the start, so that far gists weigh less, by a power of the
    distance. Tokens have features 0: a row of tokens only is untouched.

    mass: tokens that all gists of a Working Context weigh as, together, at most; default: a sequence of the model.
    """

    def __init__(self, config: ModelConfig, kind: Positional, block_size: int, mass: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.block_size = block_size
        self.mass = mass or config.max_seq_len
        features = 2 if kind == "gaussian_alibi" else 1
        self.weights = nn.Parameter(torch.empty(config.depth, config.n_head, features))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Set the weights of the start."""
        self.weights[..., 0] = 1.0
        if self.kind == "gaussian_alibi":
            heads = self.weights.size(1)
            self.weights[..., 1] = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])

    def excess(self, spans: Spans) -> Tensor:
        """`excess_mass` of whole Working Contexts: fp64 [R, 1]."""
        covered = (spans.span * (spans.level > 0)).sum(dim=-1, keepdim=True)
        return torch.ceil(torch.log2(covered.clamp(min=1) / self.mass)).clamp(min=0) * math.log(2)

    def features(self, spans: Spans, end: Tensor | None = None, excess: float | Tensor | None = None) -> Tensor:
        """Features of entries, fp32 [R, L, 1 or 2].

        end: [R or 1, 1], where the newest entry ends; default: the last of these does. excess: taken from every gist's
        ln(span); default: these are whole Working Contexts, and it is theirs.
        """
        if excess is None:
            excess = self.excess(spans)
        coarse = spans.level > 0
        mass = torch.log(spans.span) - excess * coarse  # 0 for tokens
        if self.kind != "gaussian_alibi":
            return mass.unsqueeze(-1).float()
        if end is None:
            end = (spans.centre + spans.span / 2).amax(dim=-1, keepdim=True)
        near = -torch.log1p((end - spans.centre) / self.block_size) * coarse
        return torch.stack((mass, near), dim=-1).float()
