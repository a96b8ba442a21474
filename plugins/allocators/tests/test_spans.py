"""What the spans allocator shows: against a slow reference over all cuts of its kind, and on rows small enough to read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mccore_allocators.spans import SpansAllocator, SpansOptions
from numpy.typing import NDArray

from mccore.api import AllocatorSpec, Budget, Edits, FocusView, Found
from mccore.megacontext.focus.view import apply_batch, pack
from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree import edits
from mccore.megacontext.tree.cut import Cut
from mccore.testing import random_cut
from mccore.testing.allocators import edit_set

Spans = list[tuple[int, int, float]]
"""First token, one past the last, and score."""


def found_in(*rows: Spans) -> Found:
    """What a search found in each row."""
    table = [(row, *span) for row, spans in enumerate(rows) for span in spans]
    whole = np.array([span[:3] for span in table], dtype=np.int64).reshape(-1, 3)
    return Found(whole[:, 0], whole[:, 1], whole[:, 2], np.array([span[3] for span in table], dtype=np.float64))


@dataclass(frozen=True)
class Row:
    """One row before a refocus, and everything that decides what becomes of it."""

    before: Cut
    spans: Spans
    entries: int
    max_lod: int
    options: SpansOptions

    def view(self, cut: Cut) -> FocusView:
        return replace(pack([cut]), found=found_in(self.spans))

    def plan(self, cut: Cut) -> Edits:
        allocator = SpansAllocator(self.options, AllocatorSpec(self.before.block_size, self.max_lod))
        return allocator.plan(self.view(cut), Budget(self.entries))

    def after(self, cut: Cut) -> Cut:
        return apply_batch(
            [cut], self.plan(cut), budget=cut.tokens, recent_tokens=self.options.recent_tokens, max_lod=self.max_lod
        )[0]


# --- the reference ----------------------------------------------------------------------------------------------------


def shows(cut: Cut, start: int, stop: int) -> bool:
    """Whether every token of a span is an entry."""
    return set(range(start, stop)) <= set(cut.index[cut.level == 0].tolist())


def tiles(raw: NDArray[np.bool_], size: int, max_lod: int) -> list[int]:
    """Levels of the shortest tiling that has the tokens where `raw` as entries: the coarsest node that can start, one by one."""
    levels, at = [], 0
    while at < len(raw):
        for lod in range(max_lod, -1, -1):
            stop = at + size**lod
            if lod == 0 or (at % size**lod == 0 and stop <= len(raw) and not raw[at:stop].any()):
                break
        levels.append(lod)
        at += size**lod
    return levels


def reference(row: Row) -> Cut:
    """The wanted cut, by trying every start of the tail for every choice of spans."""
    n, size, options = row.before.tokens, row.before.block_size, row.options
    starts = range(0, max(0, n - options.recent_tokens) + 1, size)

    def with_tail(start: int, spans: Spans) -> Cut:
        raw = np.zeros(start, dtype=np.bool_)
        for first, stop, _ in spans:
            raw[first:stop] = True
        return cuts.from_levels(tiles(raw, size, row.max_lod) + [0] * (n - start), size)

    def longest_tail(spans: Spans) -> tuple[int, Cut] | None:
        """The best cut with these spans, unless it is too long or has no place for one of them."""
        for start in starts:
            cut = with_tail(start, spans)
            if len(cut) <= row.entries:
                outside = sum(first < start for first, _, _ in spans)
                return (start, cut) if outside <= options.spans else None
        return None

    def worth(span: tuple[int, int, float]) -> tuple[float, int]:
        shown = shows(row.before, *span[:2])
        return -span[2] * (1 + options.hysteresis * shown), -span[0]

    taken: Spans = []
    best = longest_tail(taken)
    if best is None:
        return with_tail(starts[-1], [])
    for span in sorted(row.spans, key=worth):
        if (wider := longest_tail([*taken, span])) is not None:
            taken, best = [*taken, span], wider
    return best[1]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Rows of up to 2,148 tokens: any legal cut, spans anywhere, budgets from none to all."""
    size = draw(st.sampled_from([2, 3, 4, 8, 16, 32]))
    max_lod = draw(st.integers(2, 4))
    n = draw(st.integers(0, 12 * size) | st.integers(0, 100 + 2 * size**2))
    recent = draw(st.integers(0, 3 * size))
    before = random_cut(np.random.default_rng(draw(st.integers(0, 2**32))), n, size, max_lod, recent)
    width = size * draw(st.integers(1, 3))
    places = draw(st.lists(st.integers(0, max(0, n // width - 1)), unique=True, max_size=6)) if n >= width else []
    scores = draw(st.lists(st.sampled_from([1.0, 1.05, 1.2, 2.0, 7.0]), min_size=len(places), max_size=len(places)))
    return Row(
        before,
        [(place * width, (place + 1) * width, score) for place, score in zip(places, scores, strict=True)],
        draw(st.integers(0, n + size) | st.integers(0, 6 * size)),
        max_lod,
        SpansOptions(
            spans=draw(st.integers(0, 3)), hysteresis=draw(st.sampled_from([0, 0.1, 1])), recent_tokens=recent
        ),
    )


@settings(max_examples=300, deadline=None)
@given(row=rows())
def test_a_plan_leads_to_the_cut_of_the_reference(row: Row) -> None:
    n, recent = row.before.tokens, row.options.recent_tokens
    after = row.after(row.before)
    shortest = len(cuts.coarsest(n, row.before.block_size, row.max_lod, recent))
    cuts.check(after, n, max_lod=row.max_lod, recent_tokens=recent, budget=max(row.entries, shortest))
    assert after == reference(row)


@settings(max_examples=200, deadline=None)
@given(row=rows())
def test_a_plan_on_its_own_result_is_empty(row: Row) -> None:
    assert edit_set(row.plan(row.after(row.before))) == (set(), set())


@settings(max_examples=60, deadline=None)
@given(row=rows(), seed=st.integers(0, 2**32))
def test_rows_are_planned_apart(row: Row, seed: int) -> None:
    size = row.before.block_size
    before = random_cut(np.random.default_rng(seed), 20 * size, size, row.max_lod, row.options.recent_tokens)
    other = replace(row, before=before, spans=[(0, 2 * size, 1.0), (7 * size, 9 * size, 2.0)])
    both = replace(pack([row.before, other.before]), found=found_in(row.spans, other.spans))
    together = SpansAllocator(row.options, AllocatorSpec(size, row.max_lod)).plan(both, Budget(row.entries))
    alone = edit_set(row.plan(row.before)), edit_set(other.plan(other.before))
    for made, one, two in zip(edit_set(together), *alone, strict=True):
        assert made == one | {(1, level, index) for _, level, index in two}


def test_a_long_history_costs_no_array_of_its_length() -> None:
    n, size = 10**12, 16
    cut = cuts.recency_pyramid(n, size, 9, 128, 400)
    far = n // 2 // 64 * 64
    row = Row(cut, [(far, far + 64, 1.0)], 512, 9, SpansOptions())
    after = row.after(cut)
    cuts.check(after, n, max_lod=9, recent_tokens=128, budget=512)
    assert shows(after, far, far + 64)
    assert len(after) > 512 - size


# --- rules, on rows small enough to read ------------------------------------------------------------------------------

K = 4


def refocused(
    n: int, found: Spans, entries: int, *, max_lod: int = 2, before: Cut | None = None, **options: Any
) -> Cut:
    """The row after a plan, from a row of tokens if not `before`."""
    chosen = SpansOptions(**{"recent_tokens": 4, "hysteresis": 0.0, **options})
    cut = cuts.finest(n, K) if before is None else before
    return Row(cut, found, entries, max_lod, chosen).after(cut)


def levels(cut: Cut) -> str:
    """The levels of a row, one digit per entry."""
    return "".join(map(str, cut.level.tolist()))


def shown(cut: Cut, *found: tuple[int, int, float]) -> list[bool]:
    """Which of the spans are tokens in a row."""
    return [shows(cut, start, stop) for start, stop, _ in found]


@pytest.mark.parametrize(
    ("n", "entries", "expected"),
    [
        (64, 64, "0" * 64),
        (64, 63, "1" + "0" * 60),
        (64, 40, "2111" + "0" * 36),
        (64, 34, "22" + "0" * 32),  # the fourth block completes a node of the next level
        (64, 12, "222111" + "0" * 4),
        (66, 1, "222111" + "0" * 6),  # the shortest there is, though it is longer
    ],
)
def test_without_spans_a_row_is_a_coarse_past_and_the_longest_tail(n: int, entries: int, expected: str) -> None:
    assert levels(refocused(n, [], entries)) == expected


def test_a_view_without_a_search_is_one_that_found_nothing() -> None:
    cut = cuts.finest(64, K)
    searched = Row(cut, [], 30, 2, SpansOptions(recent_tokens=4))
    plan = SpansAllocator(searched.options, AllocatorSpec(K, 2)).plan(pack([cut]), Budget(30))
    assert edit_set(plan) == edit_set(searched.plan(cut))
    assert len(plan.collapse)


def test_nodes_over_a_span_are_split_only_as_far_as_needed() -> None:
    assert levels(refocused(64, [(20, 24, 1.0)], 26)) == "2" + "1" + "0000" + "11" + "2" + "0" * 16
    cut = refocused(148, [(72, 76, 1.0)], 30, max_lod=3)
    assert levels(cut) == "3" + "11" + "0000" + "1" + "222" + "1" + "0" * 16


def test_the_best_spans_are_shown_and_newer_ones_among_equals() -> None:
    found = [(0, 8, 1.0), (16, 24, 3.0), (40, 48, 2.0), (56, 64, 2.0)]
    for most, expected in ((0, []), (1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3])):
        assert np.flatnonzero(shown(refocused(128, found, 64, spans=most), *found)).tolist() == expected


def test_what_the_spans_leave_goes_to_the_tail() -> None:
    found = [(16, 24, 3.0), (40, 48, 2.0)]
    for most, expected in ((0, 56), (1, 48), (2, 36)):
        cut = refocused(128, found, 64, spans=most)
        assert len(cut) <= 64
        assert 128 - cut.stop[cut.level > 0].max() == expected


def test_a_span_that_is_shown_yields_to_one_that_is_better_by_the_margin() -> None:
    old, new = (16, 24, 1.0), (40, 48, 1.09)
    before = refocused(128, [old], 64, spans=1)
    assert shown(before, old, new) == [True, False]
    for margin, score, expected in ((0.1, 1.09, [True, False]), (0.1, 1.11, [False, True]), (0.0, 1.01, [False, True])):
        found = [old, (*new[:2], score)]
        assert shown(refocused(128, found, 64, before=before, spans=1, hysteresis=margin), *found) == expected


def test_half_a_span_is_not_shown() -> None:
    before = refocused(128, [(16, 20, 1.0)], 64)
    found = [(16, 24, 1.0), (40, 48, 1.09)]
    assert shown(refocused(128, found, 64, before=before, spans=1, hysteresis=0.1), *found) == [False, True]


def test_a_span_in_the_tail_needs_no_place() -> None:
    found = [(112, 120, 9.0), (16, 24, 1.0), (40, 48, 2.0)]
    assert shown(refocused(128, found, 64, spans=1), *found) == [True, False, True]


def test_no_span_takes_the_tail_from_a_better_one() -> None:
    rim, far, farther = (72, 80, 2.0), (40, 48, 1.0), (16, 24, 0.5)
    assert shown(refocused(128, [], 64, spans=1), rim) == [True], "the tail alone holds it"
    assert shown(refocused(128, [far], 64, spans=1), rim, far) == [False, True], "and doesn't beside another span"
    assert shown(refocused(128, [rim, far], 64, spans=1), rim, far) == [True, False]
    assert shown(refocused(128, [rim, far, farther], 64, spans=2), rim, far, farther) == [True, True, False]
    assert shown(refocused(128, [rim, (*far[:2], 3.0)], 64, spans=1), rim, far) == [False, True]


@pytest.mark.parametrize(
    ("entries", "recent", "expected"),
    [(50, 4, [True, True]), (49, 4, [True, False]), (50, 16, [False, True]), (43, 4, [False, True])],
)
def test_a_span_for_which_there_is_no_room_makes_way_for_the_next(
    entries: int, recent: int, expected: list[bool]
) -> None:
    found = [(16, 48, 9.0), (56, 60, 1.0)]
    assert shown(refocused(128, found, entries, recent_tokens=recent), *found) == expected


def test_no_span_is_shown_where_even_the_shortest_row_is_too_long() -> None:
    assert refocused(128, [(16, 24, 1.0)], 13) == cuts.coarsest(128, K, 2, 4)


def test_a_history_that_grows_keeps_what_it_shows() -> None:
    """The same spans at each refocus: the past only gets coarser, and no token is read anew."""
    found = [(16, 32, 1.0), (96, 112, 2.0)]
    cut = refocused(256, found, 96, max_lod=3)
    for _ in range(30):
        grown = edits.append(cut, 8)
        row = Row(grown, found, 96, 3, SpansOptions(recent_tokens=4))
        assert len(row.plan(grown).expand) == 0
        cut = row.after(grown)
        assert shown(cut, *found) == [True, True]
