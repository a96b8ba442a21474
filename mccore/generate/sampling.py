"""How a token is drawn from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, and how long it may be.

    temperature: 0 takes the likeliest token; above, tokens are drawn among the `top_k` likeliest (0: all), and of those among
    the fewest whose probabilities come to `top_p`, the same for the same seed.
    """

    temperature: float = 0.0
    top_k: int = 0
    max_new_tokens: int = 256
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p lies above 0 and up to 1, got {self.top_p}")


@torch.inference_mode()
def choose(logits: Tensor, draws: Sequence[float], temperature: float, top_k: int, top_p: float = 1.0) -> list[int]:
    """One token per row of logits [B, V]: the likeliest at temperature 0, else the one that the row's draw in [0, 1) hits
    in the cumulative distribution of the `top_k` likeliest (0: all), of those the fewest that come to `top_p`."""
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    ids: Tensor | None = None
    if 0 < top_k < logits.size(-1):
        logits, ids = logits.topk(top_k, dim=-1)
    elif top_p < 1:
        logits, ids = logits.sort(dim=-1, descending=True)
    shares = torch.softmax(logits.double() / temperature, dim=-1)
    cumulative = shares.cumsum(dim=-1)
    if top_p < 1:  # a token counts while those before it fall short: the likeliest always does
        cumulative = shares.masked_fill(cumulative - shares >= top_p, 0.0).cumsum(dim=-1)
    level = torch.tensor(draws, dtype=torch.float64, device=logits.device).unsqueeze(1) * cumulative[:, -1:]
    pick = torch.searchsorted(cumulative, level, right=True).clamp_(max=logits.size(-1) - 1)
    return (pick if ids is None else ids.gather(1, pick)).squeeze(1).tolist()
