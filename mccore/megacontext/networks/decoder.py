"""A decoder so weak that what it can rebuild must have been in the gist."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mccore.megacontext.networks.encoder import EPS, EncoderLayer
from mccore.model.ops.elementwise import rms_norm


class WeakDecoder(nn.Module):
    """Gists [N, D] -> hidden states [N, K, D] of their block's tokens, for the GPT's own output head: one layer over K copies
    of the gist that differ by a learned place."""

    def __init__(self, width: int, block_size: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(block_size, width))
        self.layers = nn.ModuleList([EncoderLayer(width, mlp_ratio=2)])

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start."""
        self.place.normal_(0.0, 1.0, generator=generator)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.reset(generator)

    def forward(self, gists: Tensor) -> Tensor:
        """gists: [N, D] -> [N, K, D]."""
        x = gists.unsqueeze(1) + self.place.to(gists.dtype)
        for layer in self.layers:
            x = layer(x)
        return rms_norm(x, EPS)
