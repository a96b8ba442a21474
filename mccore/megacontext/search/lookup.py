"""An exact lookup of what followed the newest tokens before: at every token, in all of a history, at a cost that doesn't grow.

A match is an earlier place whose last tokens are the newest ones of the history, at least two of them. What stood behind it may
come again. All matches of the longest kind are found wherever one of the last `DEPTH` bigrams is rare; of frequent n-grams the
newest `REACH` places are. Nothing is hashed away: a match is compared token by token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.megacontext.search.bigram_index import BigramIndex

REACH = 32  # places of a bigram that are looked at
DEPTH = 8  # newest bigrams, of which the first one with no more places than that is looked at too
LONGEST = 16  # tokens of a match that are compared
FEW = 24  # places up to which one after another is quicker than all of them as arrays


class Matches(NamedTuple):
    """Earlier places like the newest tokens, in order: `place` int64 [C] of the token that followed each, that token's id
    `token` int64 [C], and how many tokens before it agree, `length` int64 [C], 2 to `LONGEST`."""

    place: NDArray[np.int64]
    token: NDArray[np.int64]
    length: NDArray[np.int64]


_NONE = np.zeros(0, dtype=np.int64)
NO_MATCHES = Matches(_NONE, _NONE, _NONE)
_BACK = np.arange(LONGEST)


def find_matches(index: BigramIndex) -> Matches:
    """What followed the newest tokens of an index before: a function of the history alone."""
    last = index.tokens - 1
    if last < 2:
        return NO_MATCHES
    found, complete = index.former(last, REACH)
    for back in range(1, min(DEPTH, last)):
        if complete:
            break
        rarer, complete = index.former(last - back, REACH)
        if complete:
            found = [*{*found, *(place + back for place in rarer)}]
    if not found:
        return NO_MATCHES
    if len(found) <= FEW:
        some = [(at + 1, length) for at in sorted(found) if (length := index.matching(at, last, LONGEST)) > 1]
        if not some:
            return NO_MATCHES
        place, length = np.array(some, dtype=np.int64).T
        return Matches(place, index.ids(place).astype(np.int64), length)
    place = np.sort(np.array(found, dtype=np.int64))
    back = _BACK[: min(LONGEST, last + 1)]
    before = place[:, None] - back
    same = (index.ids(np.maximum(before, 0)) == index.ids(last - back)) & (before >= 0)
    length = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    place, length = place[length > 1], length[length > 1]
    return Matches(place + 1, index.ids(place + 1).astype(np.int64), length)
