"""LensNet: how much detail each entry of a Working Context deserves, as the newest tokens see it.

It sees the whole Working Context at once and in both directions: the score of the oldest gist depends on the newest token.
Scores are plain numbers, like logits, wherever they are trained; `squash` maps them into (-1, 1) where they leave.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mccore.config import LensConfig
from mccore.megacontext.encoder import EPS, EncoderLayer, Head
from mccore.megacontext.positions import Spans
from mccore.model.gpt import Linear
from mccore.model.kernels import rms_norm

FEATURES = 3  # log distance, its square, and whether the entry is a token


class LensNet(nn.Module):
    """Entries [R, L, D] of Working Contexts -> scores fp32 [R, L]; higher wants more detail."""

    def __init__(self, config: LensConfig, width: int, max_lod: int) -> None:
        super().__init__()
        self.config = config
        self.input = Linear(width, width)
        self.place = Linear(FEATURES, width)
        self.level = nn.Parameter(torch.empty(max_lod + 1, width))
        self.smear = nn.Parameter(torch.empty(1))
        self.layers = nn.ModuleList(EncoderLayer(width, tied_start=True) for _ in range(config.layers))
        self.head = Head(width, 1, config.head, zero=False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start."""
        # The identity: what is alike in the embeddings is alike here.
        self.input.weight.copy_(torch.eye(self.input.in_features))
        self.place.weight.normal_(0.0, 0.1, generator=generator)
        self.level.normal_(0.0, 0.1, generator=generator)
        self.smear.fill_(0.0)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.reset(generator)
            # Zero output matrices would leave no gradient for a head that starts small.
            for matrix in (layer.proj, layer.fc_proj):
                bound = (3 / matrix.in_features) ** 0.5
                matrix.weight.uniform_(-bound, bound, generator=generator)
        self.head.reset(generator)

    def forward(self, entries: Tensor, spans: Spans) -> Tensor:
        """Scores fp32 [R, L] of entries [R, L, D] that lie at `spans`. Distances are measured from the newest entry."""
        end = (spans.centre + spans.span / 2).amax(dim=-1, keepdim=True)
        distance = torch.log1p(end - spans.centre).float() / 8  # about 1 at 3,000 tokens
        raw = (spans.level == 0).float()
        features = torch.stack((distance, distance.square(), raw), dim=-1).to(entries.dtype)
        x = rms_norm(entries, EPS)
        adjacent = (raw[:, 1:] * raw[:, :-1]).unsqueeze(-1).to(x.dtype)
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1] * adjacent), dim=1)
        x = rms_norm(self.input(x + self.smear.to(x.dtype) * before), EPS)
        x = x + self.place(features) + self.level[spans.level].to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(rms_norm(x, EPS)).squeeze(-1).float()
        return scores


def squash(scores: Tensor, group: Tensor | None = None) -> Tensor:
    """Scores [R, L] as an allocator gets them, in (-1, 1): 0 for an entry that deserves just its share of attention.

    With the softmax of the scores as shares, an entry with m times the mean share gets tanh(ln(m) / 2).
    """
    shares = scores - torch.logsumexp(scores, dim=-1, keepdim=True)
    mean = -torch.log(torch.tensor(float(scores.size(-1)), device=scores.device))
    return torch.tanh((shares - mean) / 2)
