"""Where the newest tokens stood before: which entries of a Working Context hold what followed their last two or three tokens.

Copying is most of what a far past is worth on text, and a gist can't tell where its pairs and triples of tokens were. The
tokens can: they are kept, whatever stands for them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.bigram_index import BigramIndex, pair
from mccore.megacontext.cut import Cut

REACH = 256  # newest places of a pair of tokens that a session looks at
ORDERS = 2  # n-grams that are told apart: pairs, and the triples among them


@torch.no_grad()
def count_repeats(tokens: Tensor, position: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """How many tokens under each entry follow an earlier occurrence of the last 2, 3 tokens up to each position.

    tokens: int64 [R, T]; position: int64 [R, Q], of the tokens that ask; start, stop: int64 [R, L], the tokens `[start, stop)`
    under each entry. Returns fp32 [R, Q, L, 2]. Memory is that of a few [R, Q, T].
    """
    length = tokens.size(1)
    place = torch.arange(length, device=tokens.device)
    same = torch.ones(*position.shape, length, dtype=torch.bool, device=tokens.device) & (place < position.unsqueeze(2))
    counts = []
    for back in range(ORDERS + 1):
        own = tokens.gather(1, (position - back).clamp(min=0)).masked_fill(position < back, -1)
        shifted = F.pad(tokens, (back, 0), value=-2)[:, :length]  # what stands `back` before each place
        same = same & (shifted.unsqueeze(1) == own.unsqueeze(2))
        if back:
            before = F.pad(same.int().cumsum(dim=2), (2, 0))[
                :, :, : length + 1
            ]  # [R, Q, T + 1], that follow one before each
            at = (len(position), position.size(1), -1)
            counts.append(
                before.gather(2, stop.unsqueeze(1).expand(*at)) - before.gather(2, start.unsqueeze(1).expand(*at))
            )
    return torch.stack(counts, dim=-1).float()


def repeats_of_entries(tokens: Tensor, last: Tensor, span: Tensor, queries: int, later: Tensor | None = None) -> Tensor:
    """`count_repeats` of the newest `queries` entries [R, L] with last tokens `last` and so many tokens `span`, and of positions
    `later` [R, H] behind them."""
    asking = last[:, -queries:]
    if later is not None:
        asking = torch.cat((asking, later), dim=1)
    return count_repeats(tokens, asking, last + 1 - span.long(), last + 1)


def repeats_of_cut(tokens: Tensor, cut: Cut, queries: int) -> Tensor:
    """`count_repeats` [Q, L, 2] of the newest entries of a cut of a history's first tokens; tokens: int64 [n or more]."""
    start, stop = (torch.from_numpy(part.astype(np.int64)).to(tokens.device) for part in (cut.start, cut.stop))
    history = tokens[: cut.tokens].unsqueeze(0)
    return count_repeats(history, stop[-queries:].unsqueeze(0) - 1, start.unsqueeze(0), stop.unsqueeze(0))[0]


class RepeatIndex:
    """`count_repeats` of one history as it grows, at a cost that doesn't grow with it.

    index: of the history's pairs, where somebody has one already; it grows by `append` here or there. reach: newest places of a
    pair that are looked at, those of the recent tokens included; older ones of frequent pairs are passed over.
    """

    def __init__(self, index: BigramIndex | None = None, reach: int = REACH) -> None:
        self.index = BigramIndex() if index is None else index
        self.reach = reach

    def count(self, cut: Cut, queries: int) -> NDArray[np.float32]:
        """fp32 [Q, L, 2] of the newest `queries` entries of a cut of tokens that the index has."""
        position = cut.stop[-queries:] - 1  # [Q]
        found = np.zeros((len(position), len(cut), ORDERS), dtype=np.float32)
        asking = np.flatnonzero(position > 0)
        if not len(asking):
            return found
        position = position[asking, None]  # [q, 1]
        ids = self.index.ids
        places, _ = self.index.places(pair(ids(position[:, 0] - 1), ids(position[:, 0])), self.reach)
        place = places.astype(np.int64)  # [q, reach], 0 for none
        there = (place > 0) & (place < position) & (place + 1 < cut.tokens)
        triple = there & (place > 1) & (position > 1) & (ids(place - 2) == ids(position - 2))
        entry = np.searchsorted(cut.start, place + 1, side="right") - 1
        for order, kind in enumerate((there, triple)):
            row, column = np.nonzero(kind)
            np.add.at(found[..., order], (asking[row], entry[row, column]), 1.0)
        return found
