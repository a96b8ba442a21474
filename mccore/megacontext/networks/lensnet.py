"""LensNet: how much detail each node of a Working Context deserves, as its newest tokens see it.

Every recent token asks its own question: it puts shares on the nodes of the Working Context, by likeness of its query to
their keys. A node's score is the logarithm of the share that it gets on average, over the recent tokens, weighted by how much
each of them matters. So the score of the oldest gist depends on the newest token, and a question is learned token by token:
with 8 facts in a gist, only that was found to work (docs/LOG.md).

Scores are plain numbers, like logits, wherever they are trained; `squash` maps them into (-1, 1) where they leave.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.config import LensConfig
from mccore.megacontext.networks.encoder import EPS, EncoderHead, EncoderLayer
from mccore.megacontext.networks.positions import Spans
from mccore.model.layers import Linear
from mccore.model.ops.elementwise import rms_norm

FEATURES = 3  # log distance, its square, and whether the entry is a token
START_TEMPERATURE = math.log(4.0)  # ln of the factor on the cosine of query and key, in units of sqrt(D)
TINY = 1e-20  # keeps the logarithm of a share that underflowed finite


class LensOutput(NamedTuple):
    """What LensNet thinks of R Working Contexts with L entries."""

    scores: Tensor  # fp32 [R, L], ln of the share of the node that an entry belongs to; ln(1 / nodes) outside
    shares: Tensor  # fp32 [R, L], the same at the nodes' numbers, -1e9 where there is none: what losses are made of
    questions: Tensor  # fp32 [R, Q, L], ln of the share that each query gives to each node, at the node's number
    node: Tensor  # int64 [R, L], the number of each entry's node, counted from 0 in each row
    mask: Tensor  # bool [R, L], whether each number is that of a node that takes part


class LensNet(nn.Module):
    """Entries of Working Contexts -> `LensOutput`. Tokens of one block form a node, as each gist does."""

    def __init__(self, config: LensConfig, width: int, max_lod: int, block_size: int) -> None:
        super().__init__()
        self.config = config
        self.block_size = block_size
        self.smear = nn.Parameter(torch.empty(1))
        self.place = Linear(FEATURES, width)
        self.level = nn.Parameter(torch.empty(max_lod + 1, width))
        self.layers = nn.ModuleList(EncoderLayer(width, tied_start=True) for _ in range(config.layers))
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.temperature = nn.Parameter(torch.empty(1))
        self.distance = Linear(FEATURES, 1)
        self.head = EncoderHead(width, 1, config.head, zero=True)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start: what is alike in the embeddings is alike here, and every recent token matters as much."""
        self.smear.fill_(0.0)
        self.place.weight.normal_(0.0, 0.1, generator=generator)
        self.level.normal_(0.0, 0.1, generator=generator)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.reset(generator)
        identity = torch.eye(self.query.in_features)
        self.query.weight.copy_(identity)
        self.key.weight.copy_(identity)
        self.temperature.fill_(START_TEMPERATURE)
        self.distance.weight.zero_()
        self.head.reset(generator)

    def forward(
        self,
        entries: Tensor,
        spans: Spans,
        editable: Tensor | None = None,
        later: Tensor | None = None,
        block_size: int | None = None,
    ) -> LensOutput:
        """Look at entries [R, L, D] that lie at `spans`.

        editable: bool [R, L], entries that take part; default all. later: embeddings [R, H, D] of tokens behind the Working
        Context whose questions are wanted too, for training; they come behind the others in `questions`, are seen by
        nothing else, and don't count in the scores. block_size: of the tree, where it isn't the network's.
        """
        length = entries.size(1)
        start = spans.centre - (spans.span - 1) / 2
        block = torch.div(start, block_size or self.block_size, rounding_mode="floor").long()
        new = F.pad(block[:, 1:] != block[:, :-1], (1, 0), value=False)
        node = new.cumsum(dim=1)  # [R, L]
        taken = torch.ones_like(node, dtype=torch.bool) if editable is None else editable
        mask = torch.zeros_like(taken).scatter(1, node, taken)

        features, inputs = self._inputs(entries, spans)
        # A longer history than any in training has coarser nodes: they are looked at as the coarsest known.
        known = spans.level.clamp(max=len(self.level) - 1)
        x = inputs + self.place(features) + self.level[known].to(inputs.dtype)
        recent = slice(max(0, length - self.config.queries), length)
        for layer in self.layers[:-1]:
            x = layer(x)
        x = self.layers[-1](x, recent) if len(self.layers) else x[:, recent]
        keys = rms_norm(self.key(inputs), EPS)
        asking = inputs[:, recent]
        if later is not None:
            asking = torch.cat((asking, rms_norm(later, EPS)), dim=1)
        queries = rms_norm(self.query(asking), EPS)
        scale = self.temperature.exp() / math.sqrt(queries.size(-1))
        logits = (queries @ keys.transpose(1, 2)).float() * scale  # [R, Q, L]
        logits = logits + self.distance(features).float().transpose(1, 2)
        logits = logits.masked_fill(~taken.unsqueeze(1), -torch.inf)

        # The share of a node is the sum over its entries.
        top = logits.amax(dim=2, keepdim=True).clamp(min=-1e4)
        weight = torch.exp(logits - top)
        shares = torch.zeros_like(weight).scatter_add(2, node.unsqueeze(1).expand_as(weight), weight)
        questions = torch.log(shares + TINY) - torch.log(shares.sum(dim=2, keepdim=True) + TINY)

        asked = questions[:, : length - recent.start]
        raw = spans.level[:, recent] == 0
        matter = self.head(rms_norm(x, EPS)).squeeze(-1).float()
        matter = torch.log_softmax(matter.masked_fill(~raw, -1e4), dim=1)
        by_node = torch.logsumexp(asked + matter.unsqueeze(-1), dim=1)  # [R, L]
        neutral = -torch.log(mask.sum(dim=1, keepdim=True).clamp(min=1).float())
        scores = torch.where(taken, by_node.gather(1, node), neutral)
        return LensOutput(scores, by_node.masked_fill(~mask, -1e9), questions, node, mask)

    def _inputs(self, entries: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Features of places [R, L, 3] and normed entries [R, L, D], tokens with a share of the token before."""
        end = (spans.centre + spans.span / 2).amax(dim=-1, keepdim=True)
        distance = torch.log1p(end - spans.centre).float() / 8  # about 1 at 3,000 tokens
        raw = (spans.level == 0).float()
        features = torch.stack((distance, distance.square(), raw), dim=-1).to(entries.dtype)
        x = rms_norm(entries, EPS)
        adjacent = F.pad((raw[:, 1:] * raw[:, :-1]).to(x.dtype), (1, 0)).unsqueeze(-1)
        before = F.pad(x[:, :-1], (0, 0, 1, 0)) * adjacent
        return features, rms_norm(x + self.smear.to(x.dtype) * before, EPS)


def squash(scores: Tensor, nodes: Tensor) -> Tensor:
    """Scores [R, L] as an allocator gets them, in (-1, 1); nodes: [R], how many share the attention.

    0 is a node with the mean share; one with m times that gets tanh(ln(m) / 2) = (m - 1) / (m + 1).
    """
    return torch.tanh((scores + torch.log(nodes.clamp(min=1).float()).unsqueeze(1)) / 2)
