"""Cuts against a model of plain Python sets, over any sequence of appends and edits, legal or not."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree import edits
from mccore.megacontext.tree.cut import Cut, CutError, IllegalEdit
from mccore.testing import random_cut

Node = tuple[int, int]
NO_EDITS = np.empty((0, 2), dtype=np.int64)


def nodes_of(cut: Cut) -> list[Node]:
    return list(zip(cut.level.tolist(), cut.index.tolist(), strict=True))


def assert_tiles(cut: Cut, tokens: int) -> None:
    """Every token is covered once, in order, by nodes at multiples of their span. Independent of `cuts.check`."""
    at = 0
    for level, index in nodes_of(cut):
        span = cut.block_size**level
        assert index * span == at
        at += span
    assert at == tokens


def apply_slowly(
    cut: Cut, expand: list[Node], collapse: list[Node], budget: int, recent_tokens: int, max_lod: int
) -> list[Node] | None:
    """The nodes after the edits, None when the set is illegal: the definition, one node at a time."""
    size, tokens = cut.block_size, cut.tokens
    present, made = set(nodes_of(cut)), set()
    if len(set(expand)) < len(expand) or len(set(collapse)) < len(collapse):
        return None
    for level, index in sorted(expand, reverse=True):
        if level < 1 or (level, index) not in present:
            return None
        present.remove((level, index))
        children = {(level - 1, index * size + child) for child in range(size)}
        present |= children
        made |= children
    for level, index in sorted(collapse):
        children = {(level - 1, index * size + child) for child in range(size)}
        if not 1 <= level <= max_lod or not children <= present or children & made:
            return None
        if (index + 1) * size**level > tokens - recent_tokens:
            return None
        present = (present - children) | {(level, index)}
    if len(present) > budget:
        return None
    if any(level > 0 and (index + 1) * size**level > tokens - recent_tokens for level, index in present):
        return None
    return sorted(present, key=lambda node: node[1] * size ** node[0])


def parent(node: Node, size: int) -> Node:
    return node[0] + 1, node[1] // size


def child(node: Node, size: int, which: int) -> Node:
    return node[0] - 1, node[1] * size + which


@st.composite
def edit_sets(draw: st.DrawFn, cut: Cut) -> tuple[list[Node], list[Node]]:
    """Edits that are legal or wrong by one step, and now and then anything: each kind is drawn about as often."""
    there, size = nodes_of(cut) or [(0, 0)], cut.block_size
    coarse = [node for node in there if node[0] > 0] or there
    parents = [parent(node, size) for node in there]
    complete = [node for node in set(parents) if {child(node, size, at) for at in range(size)} <= set(there)]
    which = st.integers(0, size - 1)
    anything = st.tuples(st.integers(-2, 130), st.integers(-3, 2**63 - 1))
    legal_expand = st.sampled_from(coarse)
    legal_collapse = st.sampled_from(sorted(complete) or parents)

    @st.composite
    def opened_twice(draw: st.DrawFn) -> list[Node]:
        node = draw(legal_expand)
        return [node, *(child(node, size, at) for at in draw(st.sets(which, max_size=2)))]

    @st.composite
    def closed_twice(draw: st.DrawFn) -> list[Node]:
        """A parent and the complete ones among its children: legal where no other child is missing."""
        top = parent(draw(legal_collapse), size)
        below = [child(top, size, at) for at in range(size)]
        return [*(node for node in below if node in complete), top]

    def alone(node: st.SearchStrategy[Node]) -> st.SearchStrategy[list[Node]]:
        return st.lists(node, min_size=1, max_size=1)

    below = st.builds(lambda node, at: child(node, size, at), legal_expand, which)
    wrong_expand = st.one_of(below, below, st.sampled_from(there), anything)
    incomplete = st.sampled_from(sorted(set(parents) - set(complete)) or there)
    wrong_collapse = st.one_of(incomplete, incomplete, st.sampled_from(there), anything)
    expand = draw(st.lists(st.one_of(alone(legal_expand), alone(legal_expand), opened_twice()), max_size=2))
    collapse = draw(st.lists(st.one_of(alone(legal_collapse), alone(legal_collapse), closed_twice()), max_size=2))
    chosen = [list(chain(*expand)), list(chain(*collapse))]
    fault = draw(st.sampled_from(["none", "none", "none", "expand", "collapse", "both ways", "both ways twice"]))
    if fault != "none" and draw(st.booleans()):
        chosen = [[], []]  # the fault alone decides
    if fault == "expand":
        chosen[0].append(draw(wrong_expand))
    elif fault == "collapse":
        chosen[1].append(draw(wrong_collapse))
    elif fault == "both ways":
        chosen[1].append(draw(legal_expand))
    elif fault == "both ways twice":
        chosen = [[draw(legal_expand)], []]
        chosen[1] = [chosen[0][0], parent(chosen[0][0], size)]
    return chosen[0], chosen[1]


@settings(deadline=None, max_examples=250)
@given(data=st.data())
def test_any_sequence_of_appends_and_edits_keeps_a_legal_cut(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([2, 3, 4]), label="block size")
    max_lod = data.draw(st.integers(2, 4), label="max_lod")
    tail = data.draw(st.integers(0, 6), label="recent tokens")
    seed = data.draw(st.integers(0, 2**32 - 1))
    tokens = data.draw(st.integers(0, 150), label="tokens")
    cut = random_cut(np.random.default_rng(seed), tokens, size, max_lod, tail)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            more = data.draw(st.integers(0, 2 * size))
            cut, tokens = edits.append(cut, more), tokens + more
        expand, collapse = data.draw(edit_sets(cut), label="edits")
        before = nodes_of(cut)
        roomy = apply_slowly(cut, expand, collapse, 10**6, tail, max_lod)
        budget = max(0, len(roomy or []) + data.draw(st.sampled_from([10**6, 10**6, 0, -1]), label="room"))
        expected = apply_slowly(cut, expand, collapse, budget, tail, max_lod)
        try:
            after = edits.apply(
                cut,
                np.array(expand, dtype=np.int64).reshape(-1, 2),
                np.array(collapse, dtype=np.int64).reshape(-1, 2),
                budget=budget,
                recent_tokens=tail,
                max_lod=max_lod,
            )
        except IllegalEdit:
            assert expected is None
            assert nodes_of(cut) == before, "a refused set changes nothing"
            continue
        assert expected == nodes_of(after)
        assert_tiles(after, tokens)
        cuts.check(after, tokens, max_lod=max_lod, recent_tokens=tail, budget=budget)
        assert nodes_of(cut) == before, "a cut is a value"
        cut = after


# A cut to read: one LOD2 node, two LOD1 blocks, two open blocks and a tail of five tokens; K = 4.
SAMPLE = cuts.from_levels([2, 1, 1] + [0] * 8 + [0] * 5, 4)
LIMITS: dict[str, int] = {"budget": 100, "recent_tokens": 5, "max_lod": 2}


@pytest.mark.parametrize(
    ("expand", "collapse", "limits", "message"),
    [
        ([(0, 30)], [], {}, "expand (0, 30): a token has nothing below it"),
        ([(1, 6)], [], {}, "expand (1, 6): it isn't in the cut"),
        ([(1, 0)], [], {}, "expand (1, 0): it isn't in the cut"),
        ([(2, 1)], [], {}, "expand (2, 1): it isn't in the cut"),
        ([(1, -4)], [], {}, "expand (1, -4): it isn't in the cut"),
        ([(99, 0)], [], {}, "expand (99, 0): it isn't in the cut"),
        ([(1, 2**62)], [], {}, f"expand (1, {2**62}): it isn't in the cut"),
        ([(1, 4), (1, 4)], [], {}, "expand (1, 4): listed twice"),
        ([], [(2, 1)], {}, "collapse (2, 1): its 4 children aren't all in the cut"),
        ([], [(1, 4)], {}, "collapse (1, 4): its 4 children aren't all in the cut"),
        ([], [(1, 6), (1, 6)], {}, "collapse (1, 6): listed twice"),
        ([], [(1, 8)], {}, "collapse (1, 8): it reaches into the last 5 tokens"),
        ([], [(1, 9)], {}, "collapse (1, 9): it isn't complete in a history of 37 tokens"),
        ([], [(2, 2)], {}, "collapse (2, 2): it isn't complete in a history of 37 tokens"),
        ([], [(3, 0)], {}, "collapse (3, 0): a parent is at a level from 1 to 2"),
        ([], [(0, 1)], {}, "collapse (0, 1): a parent is at a level from 1 to 2"),
        ([], [(1, -1)], {}, "collapse (1, -1): a parent is at a level from 1 to 2"),
        ([(1, 4)], [(1, 4)], {}, "collapse (1, 4): the same set expands what it covers"),
        ([(1, 4)], [(1, 4), (1, 6), (1, 7), (2, 1)], {}, "collapse (1, 4): the same set expands what it covers"),
        ([(1, 4), (1, 5)], [(1, 6)], {"budget": 18}, "turn 16 entries into 19, more than the budget of 18"),
        ([], [], {"budget": 15}, "turn 16 entries into 16, more than the budget of 15"),
        ([], [], {"recent_tokens": 14}, "(1, 5) stays in the last 14 tokens, which have to be LOD0"),
        ([[1, 4, 0]], [], {}, "expand: expected integers [edits, 2], got int64 [1, 3]"),
        ([], [[1.0, 6.0]], {}, "collapse: expected integers [edits, 2], got float64 [1, 2]"),
    ],
)  # fmt: skip
def test_illegal_edits_are_named(expand: Any, collapse: Any, limits: dict[str, int], message: str) -> None:
    before = nodes_of(SAMPLE)
    with pytest.raises(IllegalEdit, match=re.escape(message)):
        edits.apply(SAMPLE, np.array(expand), np.array(collapse), **(LIMITS | limits))
    assert nodes_of(SAMPLE) == before


def test_edits_that_build_on_each_other_are_one_set() -> None:
    closed = edits.apply(SAMPLE, [], [(2, 1), (1, 7), (1, 6)], **LIMITS)
    assert nodes_of(closed)[:2] == [(2, 0), (2, 1)]
    opened = edits.apply(closed, [(1, 6), (2, 1), (1, 7)], [], **LIMITS)
    assert opened == SAMPLE
    exchanged = edits.apply(SAMPLE, [(1, 5)], [(1, 6)], **(LIMITS | {"budget": len(SAMPLE)}))
    assert cuts.encode_runs(exchanged) == [(2, 1), (1, 1), (0, 4), (1, 1), (0, 9)]


def test_without_edits_the_cut_is_itself() -> None:
    assert edits.apply(SAMPLE, NO_EDITS, [], **LIMITS) is SAMPLE


def test_numbers_of_a_cut() -> None:
    assert SAMPLE.tokens == 37
    assert SAMPLE.span.tolist() == [16, 4, 4] + [1] * 13
    assert SAMPLE.start.tolist() == [0, 16, 20, *range(24, 37)]
    assert SAMPLE.stop.tolist() == [16, 20, 24, *range(25, 38)]
    assert SAMPLE.centre.tolist() == [7.5, 17.5, 21.5, *range(24, 37)]
    assert cuts.histogram(SAMPLE.level, 3).tolist() == [13, 2, 1, 0]
    assert cuts.coverage(SAMPLE.level, 4, 3).tolist() == [13, 8, 16, 0]
    assert cuts.encode_runs(SAMPLE) == [(2, 1), (1, 2), (0, 13)]
    empty = cuts.finest(0, 4)
    assert (len(empty), empty.tokens, cuts.encode_runs(empty)) == (0, 0, [])
    cuts.check(empty, 0, budget=0)


def test_numbers_of_large_nodes_do_not_overflow() -> None:
    deep = Cut(np.array([8]), np.array([3]), 128)
    assert deep.stop.tolist() == [4 * 128**8]
    assert deep.centre.tolist() == [3.5 * 128**8 - 0.5]


def test_arithmetic_of_padded_arrays() -> None:
    level = np.array([[2, 0, -1], [1, 1, 0]], dtype=np.int8)
    index = np.array([[0, 16, 0], [0, 1, 8]])
    assert cuts.spans(level, 4).tolist() == [[16, 1, 0], [4, 4, 1]]
    assert cuts.centres(level, index, 4)[1].tolist() == [1.5, 5.5, 8.0]
    assert cuts.histogram(level, 2).tolist() == [[1, 0, 1], [1, 2, 0]]
    assert cuts.coverage(level, 4, 2).tolist() == [[1, 0, 16], [1, 8, 0]]


def test_a_cut_cannot_be_written_to() -> None:
    level = np.zeros(3, dtype=np.int8)
    cut = Cut(level, np.arange(3), 4)
    with pytest.raises(ValueError, match="read-only"):
        cut.level[0] = 1
    with pytest.raises(AttributeError):
        cut.level = level  # type: ignore[misc]
    level[0] = 0  # the array it was made from stays the caller's


@settings(deadline=None)
@given(
    tokens=st.integers(0, 3000), size=st.integers(2, 9), max_lod=st.integers(1, 5), tail=st.integers(0, 200),
    slack=st.integers(-5, 300), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_made_cuts(tokens: int, size: int, max_lod: int, tail: int, slack: int, seed: int) -> None:
    shortest = cuts.coarsest(tokens, size, max_lod, tail)
    budget = len(shortest) + slack
    pyramid = cuts.recency_pyramid(tokens, size, max_lod, tail, budget)
    between = random_cut(np.random.default_rng(seed), tokens, size, max_lod, tail)
    for cut in (shortest, pyramid, between, cuts.finest(tokens, size)):
        assert_tiles(cut, tokens)
        cuts.check(cut, tokens, max_lod=max_lod, recent_tokens=tail)
        assert len(shortest) <= len(cut)
        assert cuts.decode_runs(cuts.encode_runs(cut), size) == cut
        assert cuts.coverage(cut.level, size, max_lod).sum() == tokens
    # No complete block before the tail is left open in the coarsest cut.
    for level, index in nodes_of(shortest):
        parent_stop = (index // size + 1) * size ** (level + 1)
        assert level == max_lod or parent_stop > tokens - tail
    assert (np.diff(pyramid.level) <= 0).all(), "detail only grows with time"
    assert len(pyramid) <= max(budget, len(shortest))
    if (pyramid.level > 0).any():
        assert len(pyramid) > budget - (size - 1) or slack < 0, "what is free is spent"


def test_the_pyramid_shares_its_room_among_the_levels() -> None:
    cut = cuts.recency_pyramid(100_000, 32, 2, 128, 2048)
    counts = cuts.histogram(cut.level, 2)
    assert (counts > 40).all()
    assert 2048 - 31 < counts.sum() <= 2048


@pytest.mark.parametrize(
    ("cut", "tokens", "limits", "message"),
    [
        (SAMPLE, 36, {}, "covers 37 tokens of a history of 36"),
        (SAMPLE, 37, {"max_lod": 1}, "entry 0 is at LOD2, outside 0 to 1"),
        (SAMPLE, 37, {"recent_tokens": 14}, "entry 2, (1, 5), reaches into the last 14 tokens"),
        (SAMPLE, 37, {"budget": 15}, "16 entries, more than the budget of 15"),
        (Cut(np.array([0, 1]), np.array([0, 1]), 4), 5, {}, "entry 1, (1, 1), starts at token 4 instead of 1"),
        (Cut(np.array([0, 0, 0]), np.array([0, 2, 1]), 4), 3, {}, "entry 1, (0, 2), starts at token 2 instead of 1"),
        (Cut(np.array([1, 0]), np.array([0, 3]), 4), 4, {}, "entry 1, (0, 3), starts at token 3 instead of 4"),
        (Cut(np.array([0, -1]), np.array([0, 0]), 4), 1, {}, "entry 1 is at LOD-1"),
        (Cut(np.array([0]), np.array([1]), 4), 2, {}, "entry 0, (0, 1), starts at token 1 instead of 0"),
        (Cut(np.array([0, 0]), np.array([0]), 4), 1, {}, "aren't two lists of one length"),
    ],
)
def test_check_names_what_is_wrong(cut: Cut, tokens: int, limits: dict[str, int], message: str) -> None:
    with pytest.raises(CutError, match=re.escape(message)):
        cuts.check(cut, tokens, **limits)


def test_levels_that_cannot_stand_there_are_refused() -> None:
    with pytest.raises(CutError, match="entry 1 at LOD1 can't start at token 1"):
        cuts.from_levels([0, 1], 4)
    with pytest.raises(CutError, match="level or length that can't be"):
        cuts.decode_runs([(0, -3)], 4)
    with pytest.raises(CutError, match="entry 2 at LOD2"):
        cuts.decode_runs([(1, 2), (2, 1)], 4)


def test_sharpen_tail_opens_only_what_reaches_into_it() -> None:
    cut = cuts.coarsest(64 + 3, 4, 3, 0)
    assert cuts.encode_runs(cut) == [(3, 1), (0, 3)]
    sharp = edits.sharpen_tail(cut, 3 + 5)
    assert cuts.encode_runs(sharp) == [(2, 3), (1, 2), (0, 8 + 3)]
    cuts.check(sharp, 67, recent_tokens=8)
    assert edits.sharpen_tail(sharp, 8) == sharp
    assert edits.sharpen_tail(cut, 1000) == cuts.finest(67, 4)
