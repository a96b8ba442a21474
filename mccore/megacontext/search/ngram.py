"""Search of a growing history for the spans that share rare n-grams with the newest tokens, at a cost that doesn't grow with it.

A span of the history scores, for every distinct bigram of the query that it holds, idf * 2^(-age / half_life), and twice
that for every distinct trigram. The age is that of the n-gram's newest place in the query, in tokens from its end. Over the
n tokens that are searched, idf = ln(n / (count + 1)) of a bigram; a trigram has the idf of its last bigram. What lies across
the border of two spans belongs to that of its last token.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.megacontext.search.bigram_index import BigramIndex, checked_ids, pair

TRIGRAM = 2.0  # times the score of the trigram's last bigram


class FoundSpans(NamedTuple):
    """Spans of a history, best first: tokens `[start, stop)`, both int64 [F], and what they score, float64 [F]."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    score: NDArray[np.float64]


class HistorySearch(Protocol):
    """What finds spans of one history, as it grows, for its newest tokens."""

    span: int  # tokens of a span, a multiple of the block size

    @property
    def tokens(self) -> int:
        """Tokens that were appended."""
        ...

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t]."""
        ...

    def find(self, query: ArrayLike, before: int, count: int) -> FoundSpans:
        """The best `count` spans wholly before token `before`, for a query of ids [q]; they don't overlap."""
        ...


class NgramSearch:
    """One history, as it grows, and the spans of it that resemble a query. Memory: that of a `BigramIndex`.

    Args:
        span: tokens per span; spans start at its multiples.
        half_life: tokens of the query by which an n-gram's weight halves.
        reach: newest places of a bigram that a search looks at, those behind `before` included; of a trigram the places of its
            rarer bigram. It bounds the cost of `find`: older places of frequent bigrams, whose idf is low, are passed over.
        index: of the same history, where something else has one; default: a new one.

    Raises ValueError for values that aren't positive.
    """

    def __init__(
        self, span: int = 64, half_life: float = 16.0, *, reach: int = 64, index: BigramIndex | None = None
    ) -> None:
        if span < 1 or half_life <= 0 or reach < 1:
            raise ValueError(f"span, half_life and reach are positive, not {span}, {half_life} and {reach}")
        self.span, self.half_life, self.reach = span, half_life, reach
        self._index = BigramIndex() if index is None else index

    @property
    def tokens(self) -> int:
        """Tokens of the history (n)."""
        return self._index.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._index.nbytes

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t] from 0 to 2^31 - 1. Raises SearchError for others, or more than 2^31 - 1 tokens, and adds none."""
        self._index.append(ids)

    def find(self, query: ArrayLike, before: int, count: int) -> FoundSpans:
        """The best `count` spans that lie wholly before token `before`, for a query of ids [q]: of two alike the newer first,
        none without a score. Only tokens before `before` are counted. Raises SearchError for what aren't token ids."""
        asked = checked_ids(query).astype(np.int64)
        before = min(before, self.tokens)
        limit = before // self.span * self.span
        if limit < 1 or count < 1 or len(asked) < 2:
            return FoundSpans(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        asked = asked[::-1]  # from here on newest first: asked[a] is the last token of the n-grams of age a
        age, bigram = _distinct(pair(asked[1:], asked[:-1]))
        place, places = self._index.places(pair(asked[age + 1], asked[age]), self.reach)
        # What has a place before `before` within reach has all its later places within reach, too. Others are counted too high,
        # which makes no difference but to trigrams that are found by their first bigram.
        there = places - (place >= before).sum(axis=1)
        idf = np.maximum(np.log(before / (there + 1.0)), 0.0)

        row, column = np.nonzero((place > 0) & (place < limit))
        found, weight = self._spans(row, place[row, column], idf * self._decay(age))

        age, _ = _distinct(bigram[:-1] * len(bigram) + bigram[1:])  # a trigram is a bigram and the one before it
        last, first = bigram[age], bigram[age + 1]
        by_first = places[first] < places[last]
        end = np.where(by_first[:, None], place[first] + 1, place[last])
        row, column = np.nonzero((end > 1) & (end < limit))
        end = end[row, column]
        same = (self._index.ids(end) == asked[age[row]]) & (self._index.ids(end - 2) == asked[age[row] + 2])
        found3, weight3 = self._spans(row[same], end[same], TRIGRAM * idf[last] * self._decay(age))

        spans, which = np.unique(np.concatenate((found, found3)), return_inverse=True)
        score = np.bincount(which, np.concatenate((weight, weight3)), len(spans))[::-1]
        best = np.argsort(-score, kind="stable")[:count]
        best = best[score[best] > 0]
        start = spans[::-1][best] * self.span
        return FoundSpans(start, start + self.span, score[best].astype(np.float64))

    def _decay(self, age: NDArray[np.int64]) -> NDArray[np.float64]:
        decay: NDArray[np.float64] = np.exp2(-age / self.half_life)
        return decay

    def _spans(
        self, row: NDArray[np.int64], place: NDArray[np.int32], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The spans that hold each row's n-gram, once each, and what that adds to their scores, from its places in order."""
        span = place.astype(np.int64) // self.span
        new = np.ones(len(row), dtype=bool)
        new[1:] = (row[1:] != row[:-1]) | (span[1:] != span[:-1])
        return span[new], weight[row[new]]


def _distinct(keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each distinct key comes first, ascending, and which of those each key is."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    return first[order], rank[which]
