"""How likely a model finds given continuations: the one measurement behind every multiple-choice score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mccore.tasks.task import OptionScore

if TYPE_CHECKING:
    from mccore.model.gpt import GPT

_LOGIT_ELEMENTS = 2**24  # logits held at once: 64 MB


class Continuation(NamedTuple):
    """Token ids a model is given, and those whose likelihood is asked for. Both at least one token long."""

    context: Sequence[int]
    tokens: Sequence[int]


def score_continuations(model: GPT, items: Sequence[Continuation], *, batch_rows: int = 32) -> list[OptionScore]:
    """Score every item, in order. Items that differ in their last token only are read once, as one row: single letters after
    one question, or the same reply to the same question.

    Rows are padded on the right, where causality hides the padding, so the batch size changes nothing but speed. A context too
    long for the model loses its oldest tokens, the first one (bos) excepted.
    """
    limit = model.config.max_seq_len + 1  # the last token is only predicted
    cropped = [_crop_context(item, limit) for item in items]
    rows: dict[tuple[int, ...], list[int]] = {}  # the tokens that are read -> the items that need them
    for i, (ids, _) in enumerate(cropped):
        rows.setdefault(tuple(ids[:-1]), []).append(i)
    order = sorted(rows, key=len)
    scores: dict[int, OptionScore] = {}
    for start in range(0, len(order), batch_rows):
        batch = order[start : start + batch_rows]
        readers = [(row, i) for row, ids in enumerate(batch) for i in rows[ids]]
        found = _score_batch(model, batch, [(row, cropped[i][0], len(items[i].tokens)) for row, i in readers])
        for (_, i), (logprob, greedy) in zip(readers, found, strict=True):
            scores[i] = OptionScore(logprob, len(items[i].tokens), greedy, cropped[i][1])
    return [scores[i] for i in range(len(items))]


@torch.inference_mode()
def _score_batch(
    model: GPT, rows: Sequence[Sequence[int]], readers: Sequence[tuple[int, list[int], int]]
) -> list[tuple[float, bool]]:
    """Log-likelihood, and whether each token is the likeliest, of the last n ids of each reader (row, ids, n)."""
    counts = [n for _, _, n in readers]
    hidden = model.hidden(_pad(rows, model.device))  # [B, T, D]
    owner = torch.repeat_interleave(torch.arange(len(readers)), torch.tensor(counts))  # [N] the reader of each token
    row = torch.tensor([row for row, _, _ in readers])[owner]
    column = torch.cat([torch.arange(len(ids) - n, len(ids)) - 1 for _, ids, n in readers])
    targets = torch.tensor([token for _, ids, n in readers for token in ids[len(ids) - n :]])
    hidden = hidden[row.to(model.device), column.to(model.device)]  # [N, D]
    logprobs, greedy = [], []
    size = max(1, _LOGIT_ELEMENTS // model.config.vocab_ids)
    for part, right in zip(torch.split(hidden, size), torch.split(targets.to(model.device), size), strict=True):
        logits = model.logits(part)  # [n, V]
        logprobs.append(logits.log_softmax(dim=-1).gather(1, right.unsqueeze(1)).squeeze(1).double().cpu())
        greedy.append((logits.argmax(dim=-1) == right).cpu())
    logprob = torch.zeros(len(readers), dtype=torch.float64).index_add_(0, owner, torch.cat(logprobs))
    misses = torch.zeros(len(readers)).index_add_(0, owner, (~torch.cat(greedy)).float())
    return [(value, missed == 0) for value, missed in zip(logprob.tolist(), misses.tolist(), strict=True)]


def _crop_context(item: Continuation, limit: int) -> tuple[list[int], int]:
    if not item.context or not item.tokens:
        raise ValueError("a context and a continuation need at least one token each")
    room = limit - len(item.tokens)
    if room < 1:
        raise ValueError(f"a continuation of {len(item.tokens)} tokens doesn't fit in a context of {limit - 1}")
    context, lost = _crop(item.context, room)
    return [*context, *item.tokens], lost


def _crop(ids: Sequence[int], room: int) -> tuple[list[int], int]:
    """At most `room` of `ids`: the first and the newest; and how many were left out."""
    lost = max(0, len(ids) - room)
    return (list(ids) if not lost else [ids[0], *ids[lost + 1 :]]), lost


def _pad(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
