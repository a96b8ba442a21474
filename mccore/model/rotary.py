"""Rotary positions (RoPE): from positions to angles, and channels turned by them.

Shapes: B rows, T entries, C channels of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mccore.model.ops.elementwise import rotate_pairs


class Rotary(NamedTuple):
    """Cosines and sines of a rotary encoding: each [B or 1, T, C / 2], fp32.

    Whoever scales both by a factor below 1 damps an entry's share of every score, frequency by frequency.
    """

    cos: Tensor
    sin: Tensor


def rotary(positions: Tensor, channels: int, base: float) -> Rotary:
    """Cosines and sines for `positions` [T] or [B, T], integer or float, any magnitude.

    Angles are formed in fp64: in fp32 a position around a million is off by a twentieth of a radian at the highest
    frequency, which would blur the distance between neighbours.
    """
    if positions.dim() == 1:
        positions = positions.unsqueeze(0)
    exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
    angles = positions.to(torch.float64).unsqueeze(-1) * base**-exponents  # [B, T, C/2]
    angles = torch.remainder(angles, 2 * torch.pi).float()
    return Rotary(angles.cos(), angles.sin())


def rounded_rotary(positions: Tensor, channels: int, base: float) -> Rotary:
    """`rotary` as nanochat's models of 2025 were trained: angles formed in fp32, cosines and sines rounded to bfloat16."""
    if positions.dim() == 1:
        positions = positions.unsqueeze(0)
    channel = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * (1.0 / base ** (channel / channels))  # [B, T, C/2]
    return Rotary(angles.cos().bfloat16().float(), angles.sin().bfloat16().float())


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the channel pairs (c, c + C/2) of `x` [B, T, heads, C] by each entry's angles; no gradient reaches those."""
    cos = rotary.cos.unsqueeze(2).to(x.dtype)  # [B, T, 1, C/2]
    sin = rotary.sin.unsqueeze(2).to(x.dtype)
    return rotate_pairs(x, cos, sin)
