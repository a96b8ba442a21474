"""What a gist weighs in attention: one key stands for `span` keys in a softmax, so its score starts with ln(span) more.

The weight is learned, by head and layer. `gist_mass` bounds what all gists of a Working Context weigh together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mccore.config import ModelConfig
from mccore.megacontext.networks.positions import Positional, Spans


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
