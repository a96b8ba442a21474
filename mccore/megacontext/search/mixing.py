"""What a lookup says, mixed into what the model says: p = (1 - w) p_model + w q.

q is a distribution over the tokens that followed the matches: each counts by a learned function of how long it is, how long ago,
and whether the Working Context shows it. w, the lookup's say, is a small network of what the lookup and the model look like at
this token. Both are learned once per model on documents that it wasn't trained on (`mccore.megacontext.sessions.lookup.fit`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mccore.megacontext.search.lookup import LONGEST, Matches

LENGTHS = (2, 3, 4, 5, 6, 8, 12, LONGEST)  # the shortest match of each kind
HIDDEN = 16
FEATURES = len(LENGTHS) + 8
MOST = 5.3  # of w as a logit: however sure, what the model alone says keeps one part in two hundred
FLOOR = -30.0  # log-probabilities below are taken for it


@dataclass(frozen=True)
class LookedUp:
    """The matches of some rows side by side: `kind`, `age`, `shown` [B, C] of each match; `group` int64 [B, C], which of the
    tokens `token` int64 [B, C] follows it; -1 in `group` behind a row's last match. `newest` int64 [B]: the history's length."""

    kind: Tensor
    age: Tensor
    shown: Tensor
    group: Tensor
    token: Tensor

    def to(self, device: torch.device) -> LookedUp:
        """The same on a device."""
        return LookedUp(*(each.to(device) for each in (self.kind, self.age, self.shown, self.group, self.token)))


_COLUMNS = np.arange(512)

# Of matches by their length.
KIND = np.searchsorted(LENGTHS, np.arange(LONGEST + 1), side="right") - 1


def looked_up(rows: Sequence[tuple[Matches, NDArray[np.bool_], int]]) -> LookedUp:
    """Rows of matches as tensors: each with whether the Working Context shows the matches, [C], and the tokens of its history."""
    most = max(1, *(len(matches.place) for matches, _, _ in rows)) if len(rows) > 1 else max(1, len(rows[0][0].place))
    shape = (len(rows), most)
    kind, group, token = np.zeros(shape, np.int64), np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    age, shown = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    some = [(row, matches, seen, tokens) for row, (matches, seen, tokens) in enumerate(rows) if len(matches.place)]
    if some:  # all rows at once: each by itself would cost as many small operations as there are rows
        counts = [len(matches.place) for _, matches, _, _ in some]
        row = np.repeat([row for row, _, _, _ in some], counts)
        column = np.concatenate([_COLUMNS[:count] if count <= len(_COLUMNS) else np.arange(count) for count in counts])
        kind[row, column] = KIND[np.concatenate([matches.length for _, matches, _, _ in some])]
        behind = np.repeat([tokens + 1 for _, _, _, tokens in some], counts)
        age[row, column] = np.log(behind - np.concatenate([matches.place for _, matches, _, _ in some]))
        shown[row, column] = np.concatenate([seen for _, _, seen, _ in some])
        ids = np.concatenate([matches.token for _, matches, _, _ in some])
        distinct, of = np.unique(row << 32 | ids, return_inverse=True)  # in order of rows, and of tokens in each
        first = np.searchsorted(distinct, np.arange(len(rows)) << 32)
        group[row, column] = of - first[row]
        there = distinct >> 32
        token[there, np.arange(len(distinct)) - first[there]] = distinct & (2**32 - 1)
    return LookedUp(*map(torch.from_numpy, (kind, age, shown, group, token)))


class LookupMixer(nn.Module):
    """The learned numbers of a lookup. A fresh one gives the lookup next to no say."""

    def __init__(self) -> None:
        super().__init__()
        self.by_kind = nn.Parameter(0.5 * torch.arange(len(LENGTHS), dtype=torch.float32))
        self.by_age = nn.Parameter(torch.zeros(len(LENGTHS)))
        self.by_shown = nn.Parameter(torch.zeros(len(LENGTHS)))
        self.hidden = nn.Linear(FEATURES, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        with torch.no_grad():  # the same start for everyone, no draw
            place = torch.arange(HIDDEN * FEATURES, dtype=torch.float32).view(HIDDEN, FEATURES)
            self.hidden.weight.copy_(0.3 * torch.sin(1.7 * place + 0.3 * place**1.5))
            self.hidden.bias.zero_()
            self.out.weight.copy_(0.1 * torch.cos(torch.arange(HIDDEN, dtype=torch.float32)).view(1, -1))
            self.out.bias.fill_(-3.0)

    def distribution(self, found: LookedUp) -> Tensor:
        """q of the tokens that followed, [B, C] like `found.token`; zeros for a row without a match."""
        score = self.by_kind[found.kind] + self.by_age[found.kind] * found.age + self.by_shown[found.kind] * found.shown
        there = found.group >= 0
        share = torch.softmax(score.masked_fill(~there, -torch.inf), dim=1).masked_fill(~there, 0.0)
        share = torch.nan_to_num(share)
        return torch.zeros_like(share).scatter_add(1, found.group.clamp(min=0), share)

    def say(self, found: LookedUp, q: Tensor, log_model: Tensor, entropy: Tensor) -> Tensor:
        """w [B] as a logit: from what the model gives the tokens that followed, `log_model` [B, C], and its entropy [B]."""
        there = found.group >= 0
        kind = found.kind.masked_fill(~there, -1)
        longest = kind.amax(dim=1)
        of_longest = there & (kind == longest[:, None])
        count = of_longest.sum(dim=1)
        best, at = q.max(dim=1)
        theirs = log_model.gather(1, at[:, None])[:, 0].clamp(min=FLOOR)
        shown = (found.shown * of_longest).sum(dim=1) / count.clamp(min=1)
        age = found.age.masked_fill(~of_longest, torch.inf).amin(dim=1)
        agree = (q * log_model.clamp(min=FLOOR)).sum(dim=1)
        features = torch.cat(
            [
                nn.functional.one_hot(longest.clamp(min=0), len(LENGTHS)).to(q.dtype),
                torch.stack(
                    [
                        torch.log1p(count.to(q.dtype)),
                        best,
                        torch.log((1 - best).clamp(min=0.02)),
                        theirs / 4,
                        agree / 4,
                        entropy / 4,
                        shown,
                        torch.where(torch.isfinite(age), age, 0.0) / 8,
                    ],
                    dim=1,
                ),
            ],
            dim=1,
        )
        say: Tensor = self.out(torch.tanh(self.hidden(features)))[:, 0]
        return say.clamp(max=MOST).masked_fill(longest < 0, -torch.inf)

    def forward(self, logits: Tensor, found: LookedUp) -> tuple[Tensor, Tensor]:
        """Log-probabilities fp32 [B, V] after logits [B, V], and what the lookup contributes to the probability of the tokens
        that followed its matches, [B, C]. A row without a match keeps the model's own."""
        own = torch.log_softmax(logits.float(), dim=1)
        q = self.distribution(found)
        entropy = -(own.exp() * own.clamp(min=FLOOR)).sum(dim=1)
        theirs = own.gather(1, found.token)
        say = self.say(found, q, theirs, entropy)
        weight = torch.sigmoid(say)
        mixed = own + nn.functional.logsigmoid(-say)[:, None]
        given = weight[:, None] * q
        there = q > 0
        raised = torch.logaddexp(mixed.gather(1, found.token), given.clamp(min=math.exp(FLOOR)).log())
        # Tokens behind a row's last one are id 0, which may be one of its own: they must not write.
        mixed = torch.cat([mixed, mixed[:, :1]], dim=1)
        mixed.scatter_(1, found.token.masked_fill(~there, mixed.size(1) - 1), raised)
        return mixed[:, :-1], given


def mixed_nll(own: Tensor, given: Tensor, say: Tensor) -> Tensor:
    """-log of (1 - w) p + w q of the wanted tokens: from log p [N], q [N] and the logit of w [N]."""
    return -torch.logaddexp(
        own + nn.functional.logsigmoid(-say), torch.log(given.clamp(min=1e-30)) + nn.functional.logsigmoid(say)
    )
