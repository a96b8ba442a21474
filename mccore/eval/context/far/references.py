"""Reference lines: what simple statistics of a history add to a model's predictions.

A learned memory has to be measured on top of these. All are fitted on documents that aren't evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.search.mixing import LENGTHS
from mccore.megacontext.sessions.lookup.fit import Examples

_COUNTS = (1, 2, 4)  # matches of the longest kind, from so many on
_CONFIDENCES = (0.0, 0.35, 0.65, 0.95)  # share of the likeliest token among them, from so much on
_SAYS = torch.linspace(0.0, 0.99, 100)
PRIOR = 8.0  # predictions by which a cell of the table leans to no say


@dataclass(frozen=True)
class Bag:
    """Words without an address: `logits += a ln(p / p_corpus)`, p being the words of a text, smoothed by `b` of the corpus'."""

    a: float
    b: float
    corpus: Tensor  # [V], shares

    def log_ratio(self, counts: Tensor) -> Tensor:
        """ln(p / p_corpus) [R, V] of counts [R, V] of words."""
        return _log_ratio(counts, self.corpus, self.b)

    def losses(self, logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
        """NLL [H] of the tokens `ids` [H] by logits [H, V] and a text of these words [V]."""
        return torch.nn.functional.cross_entropy(
            logits.float() + self.a * self.log_ratio(counts[None]), ids, reduction="none"
        )


def _log_ratio(counts: Tensor, corpus: Tensor, b: float) -> Tensor:
    share = (counts + b * corpus) / (counts.sum(dim=1, keepdim=True) + b)
    return torch.log(share / corpus)


def corpus_shares(documents: Sequence[NDArray[np.int64]], vocabulary: int) -> Tensor:
    """How often each word comes, [V], none never."""
    counts = np.ones(vocabulary)
    for ids in documents:
        counts += np.bincount(ids, minlength=vocabulary)[:vocabulary]
    return torch.from_numpy(counts / counts.sum()).float()


def fit_bag(logits: Sequence[Tensor], ids: Sequence[Tensor], counts: Sequence[Tensor], corpus: Tensor) -> Bag:
    """The two numbers that suit rows best: logits [H, V], the tokens that came [H], the words of a text [V] each."""
    best, found = float("inf"), Bag(0.0, 1.0, corpus)
    for b in (30.0, 100.0, 300.0, 1000.0, 3000.0):
        ratios = [_log_ratio(each[None], corpus, b) for each in counts]
        for a in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7):
            loss = sum(
                float(torch.nn.functional.cross_entropy(one.float() + a * ratio, wanted, reduction="sum"))
                for one, wanted, ratio in zip(logits, ids, ratios, strict=True)
            )
            if loss < best:
                best, found = loss, Bag(a, b, corpus)
    return found


@dataclass(frozen=True)
class NgramCache:
    """Counts of what followed the longest match, and a weight by its length, how many there are and how much they agree."""

    weight: Tensor  # [lengths, counts, confidences]

    def losses(self, examples: Examples) -> Tensor:
        """NLL [N] of the tokens that came."""
        cell, share = _counted(examples)
        weight = self.weight.flatten()[cell.clamp(min=0)] * (cell >= 0)
        return -torch.log((1 - weight) * examples.own.exp() + weight * share)


def fit_ngram_cache(examples: Examples) -> NgramCache:
    """The weights, one for each cell, that suit these examples."""
    shape = (len(LENGTHS), len(_COUNTS), len(_CONFIDENCES))
    cell, share = _counted(examples)
    chosen = cell >= 0
    mixed = torch.log((1 - _SAYS) * examples.own[chosen].exp()[:, None] + _SAYS * share[chosen][:, None])  # [N, says]
    total = torch.zeros(int(np.prod(shape)), len(_SAYS)).index_add_(0, cell[chosen], mixed)
    total += PRIOR * torch.log1p(-_SAYS)
    return NgramCache(_SAYS[total.argmax(dim=1)].view(shape))


def _counted(examples: Examples) -> tuple[Tensor, Tensor]:
    """The cell int64 [N] of each example, -1 without a match, and the share [N] of the token that came among what followed its
    longest matches."""
    found = examples.found
    kind = found.kind.masked_fill(found.group < 0, -1)
    longest = kind.amax(dim=1)
    of_longest = ((kind == longest[:, None]) & (found.group >= 0)).float()
    count = of_longest.sum(dim=1)
    share = torch.zeros_like(of_longest).scatter_add_(1, found.group.clamp(min=0), of_longest)
    share /= count.clamp(min=1)[:, None]
    wanted = share.gather(1, examples.wanted.clamp(min=0)[:, None])[:, 0] * (examples.wanted >= 0)
    counts = torch.bucketize(count, torch.tensor(_COUNTS, dtype=torch.float32), right=True) - 1
    confidence = torch.bucketize(share.amax(dim=1), torch.tensor(_CONFIDENCES, dtype=torch.float32), right=True) - 1
    cell = (longest * len(_COUNTS) + counts) * len(_CONFIDENCES) + confidence
    return torch.where(longest >= 0, cell, -1), wanted
