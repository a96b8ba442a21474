"""How likely a model finds given continuations: the one measurement behind every multiple-choice score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mccore.model.gpt import GPT

_LOGIT_ELEMENTS = 2**24  # logits held at once: 64 MB


class Continuation(NamedTuple):
    """Token ids a model is given, and those whose likelihood is asked for. Both at least one token long."""

    context: Sequence[int]
    tokens: Sequence[int]


class Score(NamedTuple):
    """`logprob`: log-likelihood of the whole continuation in nats; `greedy`: whether each of its tokens is the likeliest;
    `cropped`: tokens of the context left out because the model's context is shorter."""

    logprob: float
    greedy: bool
    cropped: int


def score_continuations(model: GPT, items: Sequence[Continuation], *, batch_rows: int = 32) -> list[Score]:
    """Score every item, in order. Rows are padded on the right, where causality hides the padding, so the batch size
    changes nothing but speed. A context too long for the model loses its oldest tokens, the first one (bos) excepted.
    """
    order = sorted(range(len(items)), key=lambda i: len(items[i].context) + len(items[i].tokens))
    scores: dict[int, Score] = {}
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        scores.update(zip(chosen, _score_batch(model, [items[i] for i in chosen]), strict=True))
    return [scores[i] for i in range(len(items))]


def next_token_logits(model: GPT, contexts: Sequence[Sequence[int]], *, batch_rows: int = 32) -> Tensor:
    """Logits of the token after each context: fp32 [N, V], on the CPU. Contexts are padded and cropped as above."""
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    found = torch.empty(len(contexts), model.config.vocab_ids)
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        rows = [_crop(contexts[i], model.config.max_seq_len)[0] for i in chosen]
        with torch.inference_mode():
            hidden = model.hidden(_pad(rows, model.device))
            ends = torch.tensor([len(row) - 1 for row in rows], device=model.device)
            found[chosen] = model.logits(hidden[torch.arange(len(rows), device=model.device), ends]).cpu()
    return found


@torch.inference_mode()
def _score_batch(model: GPT, items: Sequence[Continuation]) -> list[Score]:
    limit = model.config.max_seq_len + 1  # the last token is only predicted
    rows, cropped = zip(*(_crop_context(item, limit) for item in items), strict=True)
    counts = [len(item.tokens) for item in items]
    hidden = model.hidden(_pad([row[:-1] for row in rows], model.device))  # [B, T, D]
    owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts))  # [N] the row of each scored token
    column = torch.cat([torch.arange(len(row) - n, len(row)) - 1 for row, n in zip(rows, counts, strict=True)])
    wanted = torch.tensor([token for row, n in zip(rows, counts, strict=True) for token in row[len(row) - n :]])
    hidden = hidden[owner.to(model.device), column.to(model.device)]  # [N, D]
    logprobs, greedy = [], []
    size = max(1, _LOGIT_ELEMENTS // model.config.vocab_ids)
    for part, targets in zip(torch.split(hidden, size), torch.split(wanted.to(model.device), size), strict=True):
        logits = model.logits(part)  # [n, V]
        logprobs.append(logits.log_softmax(dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1).double().cpu())
        greedy.append((logits.argmax(dim=-1) == targets).cpu())
    logprob = torch.zeros(len(items), dtype=torch.float64).index_add_(0, owner, torch.cat(logprobs))
    misses = torch.zeros(len(items)).index_add_(0, owner, (~torch.cat(greedy)).float())
    return [
        Score(value, missed == 0, lost)
        for value, missed, lost in zip(logprob.tolist(), misses.tolist(), cropped, strict=True)
    ]


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
