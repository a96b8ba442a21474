"""The index of a history's n-grams and the dense scores against their definition, written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.megacontext.search import bigram_index
from mccore.megacontext.search.batched import span_scores
from mccore.megacontext.search.bigram_index import SearchError
from mccore.megacontext.search.ngram import NgramSearch

ALL = 2000  # a reach that no history here exceeds
SIX = st.integers(0, 5)
HUGE = st.sampled_from([0, 1, 2**16, 2**31 - 2, 2**31 - 1])
HISTORY = st.one_of(st.lists(SIX, max_size=300), st.lists(HUGE, max_size=100))
QUERY = st.one_of(st.lists(SIX, max_size=20), st.lists(HUGE, max_size=20))


def reference(history: Sequence[int], query: Sequence[int], span: int, half_life: float) -> list[float]:
    """The score of each whole span of a history."""
    scores = [0.0] * (len(history) // span)
    for size, factor in ((2, 1.0), (3, 2.0)):
        met = set()
        for stop in range(len(query), size - 1, -1):
            gram = tuple(query[stop - size : stop])
            if gram in met:
                continue
            met.add(gram)
            count = sum(tuple(history[at : at + 2]) == gram[-2:] for at in range(len(history) - 1))
            idf = float(np.log(len(history) / (count + 1.0))) if history else 0.0
            weight = factor * idf * 2.0 ** ((stop - len(query)) / half_life)
            holds = {
                (at + size - 1) // span
                for at in range(len(history) - size + 1)
                if tuple(history[at : at + size]) == gram
            }
            for where in holds:
                if where < len(scores):
                    scores[where] += weight
    return scores


def check(got: list[tuple[int, int, float]], scores: Sequence[float], span: int, count: int) -> None:
    """These are the best spans, in order. Equal scores may differ in their last bits, here and there."""
    want = sorted((score for score in scores if score > 0), reverse=True)[:count]
    assert [score for *_, score in got] == pytest.approx(want, rel=1e-12)
    assert [scores[start // span] for start, *_ in got] == pytest.approx(want, rel=1e-12)
    assert len({start for start, *_ in got}) == len(got)
    assert all(start % span == 0 and stop == start + span for start, stop, _ in got)
    assert all(a[2] > b[2] or a[0] > b[0] for a, b in pairwise(got))


def found(index: NgramSearch, query: Sequence[int], before: int, count: int) -> list[tuple[int, int, float]]:
    start, stop, score = index.find(query, before, count)
    assert start.dtype == stop.dtype == np.int64
    assert score.dtype == np.float64
    return list(zip(start.tolist(), stop.tolist(), score.tolist(), strict=True))


def indexed(history: Sequence[int], span: int, *, half_life: float = 16.0, reach: int = ALL) -> NgramSearch:
    index = NgramSearch(span, half_life, reach=reach)
    index.append(history)
    return index


@settings(max_examples=150, deadline=None)
@given(HISTORY, QUERY, st.integers(1, 9), st.sampled_from([1.0, 4.0, 16.0]), st.integers(0, 300), st.integers(0, 5))
def test_finds_what_the_definition_says(
    history: list[int], query: list[int], span: int, half_life: float, before: int, count: int
) -> None:
    index = indexed(history, span, half_life=half_life)
    got = found(index, query, before, count)
    check(got, reference(history[:before], query, span, half_life), span, count)


@settings(max_examples=50, deadline=None)
@given(HISTORY, QUERY, st.lists(st.integers(0, 300), max_size=8), st.integers(1, 9))
def test_batches_make_no_difference(history: list[int], query: list[int], cuts: list[int], span: int) -> None:
    index = NgramSearch(span, reach=4)
    bounds = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
    for start, stop in pairwise(bounds):
        index.append(np.asarray(history[start:stop], dtype=np.uint32))
        assert index.tokens == stop
    assert found(index, query, len(history), 100) == found(indexed(history, span, reach=4), query, len(history), 100)


def test_many_bigrams_and_small_batches() -> None:
    """The table grows several times, and pieces are crossed."""
    generator = np.random.default_rng(0)
    history = generator.integers(0, 300, bigram_index.PIECE + 5000)
    query = history[1024:1088]
    whole, parts = indexed(history, 64), NgramSearch(64, reach=ALL)
    for part in np.split(history, np.sort(generator.integers(0, len(history), 40))):
        parts.append(part)
    assert (whole.tokens, parts.tokens) == (len(history), len(history))
    got = found(whole, query, 70_000, 30)
    assert got == found(parts, query, 70_000, 30)
    scores = span_scores(torch.from_numpy(history[None, :70_000]), torch.from_numpy(query[None]))[0]
    assert got[0][0] == 1024
    assert [score for *_, score in got] == pytest.approx(scores.sort(descending=True).values[:30].tolist(), rel=1e-5)
    assert [score for *_, score in got] == pytest.approx(scores[[start // 64 for start, *_ in got]].tolist(), rel=1e-5)


def test_colliding_hashes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    history, query = np.random.default_rng(1).integers(0, 40, 1500).tolist(), list(range(20)) + list(range(15))
    want = found(indexed(history, 16), query, 1400, 30)
    monkeypatch.setattr(bigram_index, "_MIX", 0)  # every bigram asks for the first slot
    index = NgramSearch(16, reach=ALL)
    for start in range(0, len(history), 100):
        index.append(history[start : start + 100])
    assert found(index, query, 1400, 30) == want
    check(want, reference(history[:1400], query, 16, 16.0), 16, 30)


def test_newer_first_of_two_alike() -> None:
    history = [1, 2, 3, 4, 9, 9, 9, 9] * 3 + list(range(100, 140))
    got = found(indexed(history, 8), [1, 2, 3, 4], len(history), 2)
    assert [start for start, *_ in got] == [16, 8]
    assert got[0][2] == got[1][2] > 0


@pytest.mark.parametrize(("query", "age"), [([7, 1, 1], 0), ([1, 1, 8], 1)])
def test_a_trigram_is_found_by_its_rarer_bigram(query: list[int], age: int) -> None:
    """Where the other bigram, (1, 1), is so frequent that this place lies far beyond its reach: that alone is missed."""
    history = [3, 7, 1, 1, 8, 4, 4, 4, *[1] * 96, *range(100, 1000)]
    got = {start: score for start, _, score in found(indexed(history, 8, reach=8), query, len(history), 20)}
    missed = np.log(len(history) / (96 + 1)) * 2 ** (-age / 16)
    assert got[0] == pytest.approx(reference(history, query, 8, 16.0)[0] - missed)


def test_one_token_over_and_over() -> None:
    index = indexed([5] * 300_000, 64, reach=64)
    assert found(index, [5] * 64, 300_000, 2) == []  # an n-gram that is everywhere says nothing
    index.append([6, 7, 8, *range(1000, 2000)])
    ((start, *_),) = found(index, [5, 6], index.tokens, 2)
    assert start == 300_000 // 64 * 64


def test_nothing_to_find() -> None:
    empty = NgramSearch()
    assert found(empty, [1, 2, 3], 10, 2) == []
    empty.append([])
    empty.append([1])
    assert (empty.tokens, found(empty, [1, 2, 3], 10, 2)) == (1, [])
    index = indexed(list(range(200)), 64)
    for query, before, count in (([], 200, 2), ([1], 200, 2), ([1, 2], 63, 2), ([1, 2], -5, 2), ([1, 2], 200, 0)):
        assert found(index, query, before, count) == []
    assert [start for start, *_ in found(index, [1, 2], 64, 2)] == [0]


@pytest.mark.parametrize("ids", [[-1], [2**31], [0.5], [[1, 2]], 3, [True]])
def test_refuses_what_is_no_list_of_ids(ids: object) -> None:
    index = indexed([1, 2, 3], 1)
    with pytest.raises(SearchError):
        index.append(ids)  # type: ignore[arg-type]
    with pytest.raises(SearchError):
        index.find(ids, 3, 1)  # type: ignore[arg-type]
    assert index.tokens == 3


@pytest.mark.parametrize("bad", [{"span": 0}, {"half_life": 0.0}, {"reach": 0}])
def test_refuses_settings(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        NgramSearch(**bad)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 3), st.integers(0, 80), st.integers(0, 12), st.integers(1, 9))
def test_dense_scores(data: st.DataObject, rows: int, length: int, asked: int, span: int) -> None:
    ids = data.draw(st.sampled_from([SIX, HUGE]))
    tokens = [data.draw(st.lists(ids, min_size=length, max_size=length)) for _ in range(rows)]
    query = [data.draw(st.lists(ids, min_size=asked, max_size=asked)) for _ in range(rows)]
    got = span_scores(
        torch.tensor(tokens, dtype=torch.int64).view(rows, length),
        torch.tensor(query, dtype=torch.int64).view(rows, asked),
        span,
        4.0,
    )
    assert got.dtype == torch.float32
    assert got.shape == (rows, length // span)
    for row in range(rows):
        assert got[row].tolist() == pytest.approx(reference(tokens[row], query[row], span, 4.0), rel=1e-5, abs=1e-6)
