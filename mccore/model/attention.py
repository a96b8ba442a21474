"""Causal attention: a fast path on PyTorch's fused kernels and a plain reference to test it against.

Shapes: B rows, H query heads, G key/value heads (H a multiple of G), Q queries, K keys, C channels of a head. The queries
are always the last Q of the K entries, so query i sits at index `K - Q + i`; causality and windows go by that index, never
by position. A window of W lets a query see W entries, itself included; 0 means all.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attend(Protocol):
    """Causal attention: q [B, H, Q, C], k and v [B, G, K, C], bias broadcastable to [B, H, Q, K] -> [B, H, Q, C]."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None
    ) -> Tensor: ...


def visible(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Which keys each query may see: bool [Q, K]."""
    q = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    k = torch.arange(keys, device=device)
    mask = k <= q
    return mask & (k > q - window) if window else mask


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None
) -> Tensor:
    """Attention by its definition, in fp32, with the whole score matrix: for tests."""
    group = q.size(1) // k.size(1)
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    scores = q.float() @ k.float().transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible(q.size(2), k.size(2), window, q.device), float("-inf"))
    return (scores.softmax(dim=-1) @ v.float()).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None) -> Tensor:
    """Attention on PyTorch's fused kernels.

    A full-sequence pass never builds a Q x K matrix: without a window it uses the kernels' own causal mode, with one it
    cuts the sequence into blocks of a window. Only a given `bias`, or several new queries behind cached keys, cost a mask.
    """
    queries, keys = q.size(2), k.size(2)
    if window >= keys:
        window = 0
    if bias is None and queries == keys:
        return _attend_blocks(q, k, v, scale, window) if window else _sdpa(q, k, v, scale, causal=queries > 1)
    if queries == 1:
        start = keys - window if window else 0
        if bias is not None:
            bias = (bias[..., start:] if bias.size(-1) > 1 else bias).to(q.dtype)
        return _sdpa(q, k[:, :, start:], v[:, :, start:], scale, mask=bias)
    if window and queries + window - 1 < keys:  # keys that no query can see
        unseen = keys - (queries + window - 1)
        k, v, keys = k[:, :, unseen:], v[:, :, unseen:], keys - unseen
        if bias is not None and bias.size(-1) > 1:
            bias = bias[..., unseen:]
    mask = visible(queries, keys, window, q.device)
    if bias is not None:
        mask = bias.to(q.dtype).masked_fill(~mask, float("-inf"))
    return _sdpa(q, k, v, scale, mask=mask)


def attend_in_order(places: Tensor, hidden: Tensor) -> Attend:
    """Attention for entries that aren't stored in their order: an Attend for one pass behind a cache.

    places: int64 [K], where each entry, cached and new, stands in its sequence; causality and windows go by it. hidden: bool
    [K], entries that nobody sees.
    """

    def attend_placed(
        q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None
    ) -> Tensor:
        own = places[-q.size(2) :].unsqueeze(1)
        seen = (places <= own) & ~hidden
        if window:
            seen &= places > own - window
        # An entry that sees nothing, itself included, is one whose output nobody uses: any finite number will do.
        lowest = torch.finfo(q.dtype).min
        mask = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias.to(q.dtype)
        return _sdpa(q, k, v, scale, mask=mask.masked_fill(~seen, lowest))

    return attend_placed


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    dtype = q.dtype
    if q.device.type == "cpu" and dtype == torch.bfloat16:
        # The CPU kernel is slower in bf16 than in fp32, by half at 64 channels and twice at 32: the casts pay.
        q, k, v = q.float(), k.float(), v.float()
        mask = mask.float() if mask is not None and mask.dtype == dtype else mask
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.size(1) != k.size(1)
    )
    return y.to(dtype)


def _attend_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """Windowed attention of a whole sequence in blocks of `window` entries: each block sees itself and the one before."""
    batch, _, length, _ = q.shape
    padding = -length % window
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
    first = _sdpa(q[:, :, :window], k[:, :, :window], v[:, :, :window], scale, causal=True)

    def pairs(x: Tensor) -> Tensor:  # [B, G, T, C] -> [B * (blocks - 1), G, 2 * window, C]
        return x.unfold(2, 2 * window, window).permute(0, 2, 1, 4, 3).flatten(0, 1)

    later = (
        q[:, :, window:].unflatten(2, (-1, window)).transpose(1, 2).flatten(0, 1)
    )  # [B * (blocks - 1), H, window, C]
    mask = visible(window, 2 * window, window, q.device)
    rest = _sdpa(later, pairs(k), pairs(v), scale, mask=mask)
    rest = rest.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)  # [B, H, (blocks - 1) * window, C]
    return torch.cat((first, rest), dim=2)[:, :, :length]


def with_key_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, weights: Tensor, scale: float) -> tuple[Tensor, ...]:
    """Carry an additive score bias of rank R in extra channels, so that any kernel applies it: score += weights . bias.

    bias: [B, K, R], one vector per key; weights: [H, R], one per query head. Channels grow by R (rounded up to 8, which
    is what GPU kernels want); cut the output back to v's own width.
    """
    extra = -(-bias.size(-1) // 8) * 8
    q_extra = F.pad((weights / scale).to(q.dtype), (0, extra - bias.size(-1)))
    q_extra = q_extra[None, :, None].expand(q.size(0), -1, q.size(2), -1)  # [B, H, Q, extra]
    k_extra = F.pad(bias.to(k.dtype), (0, extra - bias.size(-1)))
    k_extra = k_extra[:, None].expand(-1, k.size(1), -1, -1)  # [B, G, K, extra]
    return torch.cat((q, q_extra), dim=-1), torch.cat((k, k_extra), dim=-1), F.pad(v, (0, extra))
