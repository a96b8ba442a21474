"""What `NgramSearch.find` scores, for all spans of many histories at once: to train with searched spans."""

from __future__ import annotations

import torch
from torch import Tensor

from mccore.megacontext.search.ngram import TRIGRAM


@torch.no_grad()
def span_scores(tokens: Tensor, query: Tensor, span: int = 64, half_life: float = 16.0) -> Tensor:
    """Scores fp32 [R, T // span] of the spans of histories [R, T] against one query each, [R, Q]: what an index of the history
    with unlimited reach finds. Ids are int64 from 0 to 2^31 - 1; memory is that of a few [R, T] and [R, Q, T // span]."""
    rows, length = tokens.shape
    spans, asked = length // span, query.size(1)
    scores = torch.zeros(rows, spans, device=tokens.device)
    if not rows or not spans or length < 2 or asked < 2:
        return scores
    decay = torch.exp2(torch.arange(1 - asked, 1, device=tokens.device) / half_life)

    group, own = _groups(_pairs(tokens, 2**32), _pairs(query, 2**32))
    hits, count = _hits(group, own.size(1), 1, spans, span)
    idf = torch.log(length / (count + 1.0))
    scores += _add_up(idf * _newest(own, decay[1:]), hits)
    if length < 3 or asked < 3:
        return scores

    none = own.size(1)
    keys, asked_keys = _pairs(group, none + 1), _pairs(own, none + 1)  # a trigram is two bigrams
    group, place = _groups(keys, asked_keys)
    hits, _ = _hits(group, place.size(1), 2, spans, span)
    idf = torch.zeros_like(decay[2:]).expand(rows, -1).scatter(1, place, idf.gather(1, own[:, 1:]))
    return scores + TRIGRAM * _add_up(idf * _newest(place, decay[2:]), hits)


def _pairs(ids: Tensor, base: int) -> Tensor:
    """One number for every two neighbours, int64 [R, M] -> [R, M - 1]."""
    return ids[:, :-1] * base + ids[:, 1:]


def _groups(keys: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of keys [R, M] and those asked for, [R, D], the place in order of the first one alike that is asked for: [R, M], with D for
    none, and [R, D]."""
    wanted = asked.sort(dim=1).values
    place = torch.searchsorted(wanted, keys.contiguous())
    there = wanted.gather(1, place.clamp(max=wanted.size(1) - 1)) == keys
    return torch.where(there, place, wanted.size(1)), torch.searchsorted(wanted, asked.contiguous())


def _hits(group: Tensor, groups: int, late: int, spans: int, span: int) -> tuple[Tensor, Tensor]:
    """Which spans hold an n-gram of each group, bool [R, groups, spans], and how many there are of it, int64 [R, groups]: from
    the groups of all n-grams, `late` being the position of the first one's last token."""
    rows, device = len(group), group.device
    count = torch.zeros(rows, groups + 1, dtype=torch.int64, device=device)
    count.scatter_add_(1, group, torch.ones_like(group))
    where = (torch.arange(group.size(1), device=device) + late) // span  # `spans` behind the last whole one
    hits = torch.zeros(rows, (groups + 1) * (spans + 1), dtype=torch.bool, device=device)
    hits.scatter_(1, group * (spans + 1) + where, True)
    return hits.view(rows, groups + 1, spans + 1)[:, :-1, :-1], count[:, :-1]


def _newest(place: Tensor, decay: Tensor) -> Tensor:
    """The largest decay [D] of each group, fp32 [R, D]: of its newest place."""
    return torch.zeros_like(decay).repeat(len(place), 1).scatter_reduce(1, place, decay.expand_as(place), "amax")


def _add_up(weight: Tensor, hits: Tensor) -> Tensor:
    return torch.einsum("rd,rds->rs", weight, hits.float())
