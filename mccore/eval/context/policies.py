"""Which far blocks to show as tokens, by other means than LensNet: what a learned focus has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.megacontext.search.ngram import FoundSpans

# Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the query-term saturation of
# Okapi at TREC-3: a query is as long as a document here, so its frequent words must not count in proportion.
K1, B, K3 = 1.2, 0.75, 8.0

SINKS = 16  # first tokens that a window with sinks keeps (Xiao et al., "Efficient Streaming Language Models", 2023)


def with_sinks(history: int, room: int) -> NDArray[np.int64]:
    """The first tokens of a history and its newest ones, `room` in all."""
    sinks = min(SINKS, room // 2)
    return np.concatenate([np.arange(sinks), np.arange(history - room + sinks, history)])


def bm25(query: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.float64]:
    """BM25 scores [J] of documents [J, n] for a query [m], both token ids; a negative id is padding.

    The collection that document frequencies are taken from is these documents.
    """
    terms, asked = np.unique(query[query >= 0], return_counts=True)
    if not len(terms) or not len(documents):
        return np.zeros(len(documents))
    at = np.minimum(np.searchsorted(terms, documents), len(terms) - 1)
    hit = terms[at] == documents
    document = np.broadcast_to(np.arange(len(documents))[:, None], documents.shape)
    counts = np.zeros((len(documents), len(terms)))
    np.add.at(counts, (document[hit], at[hit]), 1.0)  # [J, terms]
    containing = (counts > 0).sum(axis=0)
    rarity = np.log1p((len(documents) - containing + 0.5) / (containing + 0.5))
    length = (documents >= 0).sum(axis=1).astype(np.float64)
    norm = K1 * (1 - B + B * length / max(float(length.mean()), 1.0))
    saturation = counts * (K1 + 1) / (counts + norm[:, None])
    weight = asked * (K3 + 1) / (asked + K3)
    scores: NDArray[np.float64] = (saturation * (rarity * weight)).sum(axis=1)
    return scores


def bm25_rows(queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.float64]:
    """`bm25` of every row: queries [R, m], documents [R, J, n] -> [R, J]."""
    return np.stack([bm25(query, blocks) for query, blocks in zip(queries, documents, strict=True)])


class GivenSpans:
    """A search that always finds the same: spans by scores [J] of all those of a history."""

    def __init__(self, span: int, tokens: int, scores: NDArray[np.float64]) -> None:
        self.span, self.tokens, self._scores = span, tokens, scores

    def append(self, ids: ArrayLike) -> None:
        """Nothing: what is found is known."""

    def find(self, query: ArrayLike, before: int, count: int) -> FoundSpans:
        """The best `count` spans before token `before` that have a score, newer first among equals."""
        scores = self._scores[: before // self.span]
        best = np.lexsort((-np.arange(len(scores)), -scores))[:count]
        best = best[scores[best] > 0]
        return FoundSpans(best * self.span, (best + 1) * self.span, scores[best])
