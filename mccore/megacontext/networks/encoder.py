"""Layers that see everything they are given, as GistNet and LensNet need them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.model.layers import Linear
from mccore.model.ops.elementwise import relu_squared, rms_norm

EPS = 1e-6
HEAD_CHANNELS = 32  # per head, where the width allows


class EncoderLayer(nn.Module):
    """Self-attention without a mask and an MLP, each on the normed residual stream; queries and keys are normed.

    The residual branches end in matrices that start at zero, so a fresh layer changes nothing. With `tied_start` the key
    projection starts as a copy of the query projection: like then finds like from the first step.
    """

    def __init__(self, width: int, *, mlp_ratio: int = 4, tied_start: bool = False) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_CHANNELS)
        while width % self.heads:
            self.heads -= 1
        self.tied_start = tied_start
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.proj = Linear(width, width)
        self.fc = Linear(width, mlp_ratio * width)
        self.fc_proj = Linear(mlp_ratio * width, width)
        self.temperature = nn.Parameter(torch.empty(self.heads))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start."""
        bound = (3 / self.q.in_features) ** 0.5
        for matrix in (self.q, self.k, self.v, self.fc):
            matrix.weight.uniform_(-bound, bound, generator=generator)
        if self.tied_start:
            self.k.weight.copy_(self.q.weight)
        self.proj.weight.zero_()
        self.fc_proj.weight.zero_()
        self.temperature.fill_(1.0)

    def forward(self, x: Tensor, wanted: slice = slice(None)) -> Tensor:
        """x: [N, L, D] -> [N, L, D], or what becomes of the `wanted` entries, who see all the others."""
        rows, _, width = x.shape
        inner = rms_norm(x, EPS)
        x = x[:, wanted]

        def split(y: Tensor) -> Tensor:
            return y.view(rows, y.size(1), self.heads, -1)

        q, k = rms_norm(split(self.q(inner[:, wanted])), EPS), rms_norm(split(self.k(inner)), EPS)
        q = q * self.temperature.to(q.dtype).view(1, 1, -1, 1)
        q, k, v = (y.transpose(1, 2) for y in (q, k, split(self.v(inner))))
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:  # its kernel is slower than two casts and fp32's
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(x.dtype)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(rows, -1, width))
        return x + self.fc_proj(relu_squared(self.fc(rms_norm(x, EPS))))


class EncoderHead(nn.Module):
    """A map at the end: one matrix, or two around a squared ReLU; starts at zero where `zero`."""

    def __init__(self, width: int, out: int, kind: str, *, zero: bool) -> None:
        super().__init__()
        self.zero = zero
        self.fc = Linear(width, 2 * width) if kind == "mlp" else None
        self.out = Linear(2 * width if kind == "mlp" else width, out)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start."""
        if self.fc is not None:
            bound = (3 / self.fc.in_features) ** 0.5
            self.fc.weight.uniform_(-bound, bound, generator=generator)
        if self.zero:
            self.out.weight.zero_()
        else:
            bound = 0.1 * (3 / self.out.in_features) ** 0.5
            self.out.weight.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D] -> [..., out]."""
        return self.out(x if self.fc is None else relu_squared(self.fc(x)))
