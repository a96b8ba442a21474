"""Random numbers from a key: the same on every device, at any place in a run, without a generator."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as int64

_MIX_A, _MIX_B = -4658895280553007687, -7723592293110705685  # the multipliers of splitmix64


def hash_uniform(seed: int, *coordinates: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), fp32, one per broadcast element of int64 `coordinates`: splitmix64 of seed and them."""
    state = torch.full((), seed, dtype=torch.int64, device=coordinates[0].device)
    for coordinate in coordinates:
        state = _mix(state + (coordinate + 1) * _GOLDEN)
    return ((state >> 40) & 0xFFFFFF).float() / 2**24


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap and whose shifts have to drop the sign."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_A
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_B
    return x ^ ((x >> 31) & (2**33 - 1))
