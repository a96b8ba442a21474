"""The lookup of sessions: what stood behind the newest tokens before, and what that adds to what the model says.

The index is the search's own where there is one. Nothing of it is saved: it is made of the history, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.lookup import Matches, find_matches
from mccore.megacontext.search.mixing import LookupMixer, looked_up
from mccore.megacontext.search.one_row import mix_one
from mccore.megacontext.sessions.history import APPEND, History
from mccore.megacontext.sessions.reading import Reading

SPOKEN = 0.5  # share of a token's probability from which on it counts as looked up


class Spoken(NamedTuple):
    """Tokens `[start, stop)` of a history that were likely because they stood at `[source, source + stop - start)` before."""

    start: int
    stop: int
    source: int


@dataclass
class _Said:
    """What the lookup said of the token that comes at `position`: its matches, the tokens that followed them, and how much of
    each one's probability is the lookup's."""

    position: int
    matches: Matches
    token: NDArray[np.int64]
    share: NDArray[np.float32]


class SessionLookup:
    """The lookup of one history."""

    def __init__(self, history: History, index: BigramIndex) -> None:
        self._history, self._index = history, index
        self._said: _Said | None = None
        self._spoken: list[Spoken] = []

    def find(self, reading: Reading) -> tuple[Matches, NDArray[np.bool_], int]:
        """The matches of the newest token that is covered, which of them the Working Context shows as tokens, and how many
        tokens are covered."""
        self._catch_up(reading.covered)
        matches = find_matches(self._index)
        return matches, reading.shows(matches.place), reading.covered

    def note(self, matches: Matches, position: int, token: NDArray[np.int64], share: NDArray[np.float32]) -> None:
        """Keep what was said of the token at `position`, for `took`: tokens [C], and how much of each one's probability is the
        lookup's [C]."""
        self._said = _Said(position, matches, token, share)

    def took(self, token: int, position: int) -> None:
        """The token at `position` is this one: where it was looked up, remember where."""
        said, self._said = self._said, None
        if said is None or said.position != position:
            return
        if not ((said.token == token) & (said.share > SPOKEN)).any():
            return
        places = said.matches.place[said.matches.token == token]
        if not len(places):
            return
        place = int(places[-1])  # the newest one
        if self._spoken:
            last = self._spoken[-1]
            if last.stop == position and last.source + last.stop - last.start == place:
                self._spoken[-1] = last._replace(stop=position + 1)
                return
        self._spoken.append(Spoken(position, position + 1, place))

    def watch(self) -> None:
        """Begin to note which tokens are looked up, for `spoken`."""
        self._spoken = []

    @property
    def spoken(self) -> list[Spoken]:
        """The tokens since `watch` that were looked up, and where they had stood."""
        return list(self._spoken)

    def _catch_up(self, tokens: int) -> None:
        index, history = self._index, self._history
        newest = history.newest
        if newest is not None and index.tokens + 1 == tokens == history.tokens:
            index.append_token(newest)
        while index.tokens < tokens:  # the first time, all of a history that was loaded
            index.append(history.ids(index.tokens, min(tokens, index.tokens + APPEND)))


@torch.inference_mode()
def mix(mixer: LookupMixer, lookups: Sequence[SessionLookup], readings: Sequence[Reading], logits: Tensor) -> Tensor:
    """Log-probabilities fp32 [B, V] of what comes next, with what the histories' own text says: from the model's logits [B, V]
    after all that each reading covers."""
    rows = [lookup.find(reading) for lookup, reading in zip(lookups, readings, strict=True)]
    if len(rows) == 1 and logits.device.type == "cpu":
        (matches, shown, covered), lookup = rows[0], lookups[0]
        one = mix_one(mixer, logits[0].float().numpy(), matches, shown, covered)
        lookup.note(matches, covered, one.token, one.given / np.exp(one.log[one.token]))
        return torch.from_numpy(one.log)[None]
    if not any(len(matches.place) for matches, _, _ in rows):
        return torch.log_softmax(logits.float(), dim=1)
    found = looked_up(rows).to(logits.device)
    mixed, given = mixer(logits, found)
    share = given / mixed.gather(1, found.token).exp()
    counts = (share > SPOKEN).any(dim=1).tolist()  # of the others nothing will be remembered, whatever is said
    if any(counts):
        shares, tokens = share.cpu().numpy(), found.token.cpu().numpy()
        for row, (lookup, (matches, _, covered)) in enumerate(zip(lookups, rows, strict=True)):
            if counts[row]:
                lookup.note(matches, covered, tokens[row], shares[row])
    return mixed
