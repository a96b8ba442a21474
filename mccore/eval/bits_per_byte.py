"""Bits per byte: a model's loss on text in a unit that doesn't depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mccore.errors import DataError

if TYPE_CHECKING:
    from mccore.model.gpt import GPT


class BitsPerByte(NamedTuple):
    """`val_loss` in nats per token, `val_bpb` in bits per byte, and the tokens and bytes both are means over."""

    val_loss: float
    val_bpb: float
    tokens: int
    bytes: int


def bits_per_byte(
    model: GPT,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: Tensor,
    *,
    all_reduce: Callable[[Tensor], None] | None = None,
) -> BitsPerByte:
    """Loss of `model` over validation batches, per token and per byte.

    batches: pairs of inputs and targets, both int [B, T]; targets below 0 are not counted. token_bytes: int [vocab],
    bytes of each token, 0 for specials, which are not counted either. `all_reduce` sums an fp64 tensor over the ranks in
    place. Sums are fp64, so the result doesn't depend on how rows are split into batches. Raises DataError when nothing is
    counted.
    """
    device = model.device
    token_bytes = token_bytes.to(device=device, dtype=torch.float64)
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # nats, tokens, bytes
    with torch.inference_mode():
        for inputs, targets in batches:
            inputs, targets = inputs.to(device), targets.to(device)
            losses = model.loss(inputs, targets, reduction="none").double()  # [B, T]
            size = token_bytes[targets.clamp(min=0)] * (targets >= 0)
            counted = size > 0
            # `where`, not a product: an infinite loss at a target that isn't counted must not become NaN
            nats = torch.where(counted, losses, torch.zeros_like(losses)).sum()
            totals += torch.stack((nats, counted.sum().double(), size.sum()))
    if all_reduce is not None:
        all_reduce(totals)
    nats, tokens, size = totals.tolist()
    if size == 0:
        raise DataError("bits per byte: no validation target is counted", hint="use a larger validation split")
    return BitsPerByte(nats / tokens, nats / (math.log(2) * size), int(tokens), int(size))
