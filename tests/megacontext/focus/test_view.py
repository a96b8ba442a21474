"""Batches of cuts: padding, unpadding, edits per row, ages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mccore.api import Edits
from mccore.megacontext.focus.view import apply_batch, carry_ages, pack, unpack
from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree.cut import Cut, CutError, IllegalEdit
from mccore.megacontext.tree.edits import apply
from mccore.testing import random_cut

LIMITS: dict[str, int] = {"budget": 100, "recent_tokens": 0, "max_lod": 2}


def some_cuts() -> list[Cut]:
    rng = np.random.default_rng(0)
    return [random_cut(rng, tokens, 4, 2, 3) for tokens in (0, 50, 7, 130)]


def edits(expand: Any = (), collapse: Any = ()) -> Edits:
    return Edits(*(np.array(table, dtype=np.int64).reshape(-1, 3) for table in (expand, collapse)))


def test_packing_pads_and_unpacking_takes_it_away() -> None:
    rows = some_cuts()
    scores = [np.linspace(-0.5, 0.5, len(row)) for row in rows]
    ages = [np.arange(len(row)) for row in rows]
    view = pack(rows, scores, ages)
    longest = max(len(row) for row in rows)
    assert view.level.shape == view.index.shape == view.score.shape == view.age.shape == (4, longest)
    assert (view.level.dtype, view.index.dtype, view.score.dtype, view.age.dtype, view.tokens.dtype) == (
        np.int8, np.int64, np.float32, np.int32, np.int64,
    )  # fmt: skip
    assert view.tokens.tolist() == [0, 50, 7, 130]
    for number, row in enumerate(rows):
        assert (view.level[number, len(row) :] == cuts.PADDING).all()
        np.testing.assert_array_equal(view.score[number, : len(row)], scores[number].astype(np.float32))
        np.testing.assert_array_equal(view.age[number, : len(row)], ages[number])
    assert unpack(view, 4) == rows


def test_packing_to_a_width() -> None:
    rows = some_cuts()
    longest = max(len(row) for row in rows)
    assert unpack(pack(rows, width=longest + 9), 4) == rows
    with pytest.raises(CutError, match=f"more than the width of {longest - 1}"):
        pack(rows, width=longest - 1)
    assert pack([]).level.shape == (0, 0)
    assert unpack(pack([]), 4) == []


def test_each_row_gets_its_own_edits() -> None:
    rows = [cuts.coarsest(32, 4, 2, 0), cuts.finest(20, 4), cuts.finest(3, 4)]
    after = apply_batch(rows, edits([(0, 2, 1)], [(1, 1, 2), (1, 1, 0)]), **LIMITS)
    assert [cuts.encode_runs(row) for row in after] == [
        [(2, 1), (1, 4)],
        [(1, 1), (0, 4), (1, 1), (0, 8)],
        [(0, 3)],
    ]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (edits([(1, 2, 0)]), "row 1: expand (2, 0): it isn't in the cut"),
        (edits([(2, 2, 0)]), "expand (2, 0): there is no row 2 among 2"),
        (edits([], [(-1, 1, 0)]), "collapse (1, 0): there is no row -1 among 2"),
        (
            Edits(np.zeros((1, 2), dtype=np.int64), np.zeros((0, 3), dtype=np.int64)),
            "expand: expected integers [edits, 3]",
        ),
        (
            Edits(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)),
            "expand: expected integers [edits, 3], got float64",
        ),
    ],
)
def test_illegal_edits_name_their_row(plan: Edits, message: str) -> None:
    with pytest.raises(IllegalEdit, match=re.escape(message)):
        apply_batch([cuts.coarsest(32, 4, 2, 0), cuts.finest(20, 4)], plan, **LIMITS)


def test_ages_grow_with_what_stays() -> None:
    before = cuts.from_levels([2, 1, 1] + [0] * 8 + [0] * 5, 4)
    age = np.arange(16)
    after = apply(before, [(1, 5)], [(1, 6)], budget=100, recent_tokens=5, max_lod=2)
    assert carry_ages(before, after, age).tolist() == [1, 2, 0, 0, 0, 0, 0, *range(8, 17)]
    empty = cuts.finest(0, 4)
    assert carry_ages(empty, before, np.zeros(0)).tolist() == [0] * 16
    assert carry_ages(before, empty, age).tolist() == []


def test_a_node_and_its_first_child_are_not_the_same_entry() -> None:
    closed = cuts.coarsest(16, 4, 2, 0)
    opened = apply(closed, [(2, 0)], [], budget=100, recent_tokens=0, max_lod=2)
    assert carry_ages(closed, opened, np.array([5])).tolist() == [0, 0, 0, 0]
