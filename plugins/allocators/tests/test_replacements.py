"""What greedy and stochastic greedy decide, on Working Contexts small enough to read, and what each option changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mccore_allocators.greedy import GreedyAllocator, GreedyOptions
from mccore_allocators.stochastic_greedy import StochasticGreedyAllocator, StochasticGreedyOptions
from numpy.typing import NDArray

from mccore.api import Allocator, AllocatorSpec, Budget, Edits, FocusView
from mccore.megacontext.focus.view import apply_batch, pack
from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree.cut import Cut

K, MAX_LOD, TAIL = 4, 2, 4
OLD = 100  # an age beyond every min_residency used here
Node = tuple[int, int]
BASE: dict[str, Any] = {
    "recent_tokens": TAIL, "hysteresis": 0.0, "min_residency": 0, "expand_threshold": 0.1, "collapse_threshold": 0.1,
}  # fmt: skip


def greedy(**options: Any) -> GreedyAllocator:
    return GreedyAllocator(GreedyOptions(**(BASE | options)), AllocatorSpec(K, MAX_LOD))


def stochastic(seed: int = 0, **options: Any) -> StochasticGreedyAllocator:
    return StochasticGreedyAllocator(StochasticGreedyOptions(**(BASE | options)), AllocatorSpec(K, MAX_LOD, seed))


def blocks_of(levels: Sequence[int]) -> Cut:
    """A cut of consecutive LOD1 blocks, each closed (1) or open (0), and a tail of `TAIL` tokens."""
    return cuts.from_levels([lod for block in levels for lod in ([1] if block else [0] * K)] + [0] * TAIL, K)


def view_of(cut: Cut, scores: dict[Node, float] | None = None, ages: dict[Node, int] | None = None) -> FocusView:
    """One row with a score per node (a parent's is given to all its children), 0 and `OLD` where nothing is said."""
    return pack([cut], [spread(cut, scores or {}, 0.0)], [spread(cut, ages or {}, OLD).astype(np.int32)])


def spread(cut: Cut, values: dict[Node, Any], default: float) -> NDArray[np.float32]:
    out = np.full(len(cut), default, dtype=np.float32)
    for (level, index), value in values.items():
        span = K**level
        out[(cut.start >= index * span) & (cut.stop <= (index + 1) * span)] = value
    return out


def nodes(table: NDArray[np.int64]) -> list[Node]:
    return [(level, index) for _, level, index in table.tolist()]


def edits(plan: Edits) -> tuple[list[Node], list[Node]]:
    return nodes(plan.expand), nodes(plan.collapse)


# --- rules ------------------------------------------------------------------------------------------------------------

# Six blocks: 0 and 1 closed, 2 to 5 open: 2 + 16 + 4 = 22 entries.
SIX = blocks_of([1, 1, 0, 0, 0, 0])


def test_room_is_spent_without_a_collapse() -> None:
    plan = greedy().plan(view_of(SIX, {(1, 0): 0.9, (1, 3): -0.9}), Budget(22 + 3))
    assert edits(plan) == ([(1, 0)], [])


def test_a_full_row_pays_with_its_least_useful_block() -> None:
    plan = greedy().plan(view_of(SIX, {(1, 0): 0.9, (1, 2): -0.2, (1, 3): -0.9, (1, 4): -0.5}), Budget(22))
    assert edits(plan) == ([(1, 0)], [(1, 3)])


def test_room_comes_first_then_payment() -> None:
    scores = {(1, 0): 0.5, (1, 1): 0.9, (1, 3): -0.9}
    plan = greedy().plan(view_of(SIX, scores), Budget(22 + 5))
    assert edits(plan) == ([(1, 1), (1, 0)], [(1, 3)])


def test_nothing_shrinks_without_need() -> None:
    assert edits(greedy().plan(view_of(SIX, {(1, 3): -0.99, (1, 4): -0.99}), Budget(22))) == ([], [])


def test_a_block_is_judged_by_the_mean_of_its_children() -> None:
    # The first child of block 3 alone says "shrink", that of block 4 alone says "detail".
    scores = {(1, 0): 0.9, (1, 3): 0.3, (0, 12): -0.9, (1, 4): -0.3, (0, 16): 0.2}
    assert edits(greedy().plan(view_of(SIX, scores), Budget(22))) == ([(1, 0)], [(1, 4)])


def test_the_recent_tail_never_pays() -> None:
    cut = blocks_of([1, 0])
    scores = {(1, 0): 0.9, (1, 2): -0.99}  # block 2 is the tail itself
    assert edits(greedy().plan(view_of(cut, scores), Budget(len(cut)))) == ([], [])
    assert edits(greedy(recent_tokens=0).plan(view_of(cut, scores), Budget(len(cut)))) == ([(1, 0)], [(1, 2)])


def test_an_entry_never_pays_for_itself() -> None:
    cut = cuts.from_levels([1] * K + [1] * K + [0] * TAIL, K)
    scores = {(2, 0): -0.9, (1, 1): 0.8}  # block (2, 0) would pay, were it not for its own child
    assert edits(greedy().plan(view_of(cut, scores), Budget(len(cut)))) == ([], [])
    scores |= {(2, 1): -0.3}
    assert edits(greedy().plan(view_of(cut, scores), Budget(len(cut)))) == ([(1, 1)], [(2, 1)])


def test_over_the_budget_the_least_useful_blocks_go_whatever_the_scores() -> None:
    scores = {(1, 2): 0.9, (1, 3): 0.4, (1, 4): 0.2, (1, 5): 0.3}
    for budget, expected in ((21, [4]), (19, [4]), (18, [4, 5]), (13, [4, 5, 3])):
        plan = greedy(max_replacements=0).plan(view_of(SIX, scores), Budget(budget))
        assert edits(plan) == ([], [(1, block) for block in expected])


def test_a_row_far_over_its_budget_collapses_through_the_levels_at_once() -> None:
    cut = cuts.finest(2 * K**2 + TAIL, K)
    view = view_of(cut, {(2, 0): 0.5, (2, 1): -0.5})
    expand, collapse = edits(greedy().plan(view, Budget(10)))
    assert expand == []
    assert sorted(collapse) == [*((1, block) for block in range(8)), (2, 1)]


def test_the_newer_of_two_alike_is_expanded_and_the_older_collapsed() -> None:
    scores = {(1, 0): 0.5, (1, 1): 0.5, **{(1, block): -0.5 for block in range(2, 6)}}
    assert edits(greedy(max_replacements=1, iterations=1).plan(view_of(SIX, scores), Budget(22))) == (
        [(1, 1)],
        [(1, 2)],
    )


def test_rows_are_planned_apart() -> None:
    scores = [{(1, 0): 0.9, (1, 3): -0.9}, {(1, 1): 0.9, (1, 4): -0.9}, {}]
    rows = [spread(SIX, row, 0.0) for row in scores]
    view = pack([SIX] * 3, rows, [spread(SIX, {}, OLD).astype(np.int32)] * 3)
    plan = greedy().plan(view, Budget(22))
    assert plan.expand.tolist() == [[0, 1, 0], [1, 1, 1]]
    assert plan.collapse.tolist() == [[0, 1, 3], [1, 1, 4]]


# --- options ----------------------------------------------------------------------------------------------------------


def test_soft_max_length_is_kept_below_the_budget() -> None:
    view = view_of(SIX, {(1, 0): 0.9, (1, 3): -0.9})
    assert edits(greedy().plan(view, Budget(100))) == ([(1, 0)], [])
    assert edits(greedy(soft_max_length=22).plan(view, Budget(100))) == ([(1, 0)], [(1, 3)])
    assert edits(greedy(soft_max_length=20, max_replacements=0).plan(view, Budget(100))) == ([], [(1, 3)])
    assert edits(greedy(soft_max_length=100, max_replacements=0).plan(view, Budget(20))) == ([], [(1, 3)])


def test_recent_tokens_keeps_more_blocks_from_shrinking() -> None:
    view = view_of(SIX, {(1, 0): 0.9, (1, 5): -0.9, (1, 2): -0.2})
    assert edits(greedy().plan(view, Budget(22))) == ([(1, 0)], [(1, 5)])
    assert edits(greedy(recent_tokens=TAIL + 1).plan(view, Budget(22))) == ([(1, 0)], [(1, 2)])
    assert greedy(recent_tokens=9).recent_tokens == 9


def test_expand_threshold_says_who_may_be_expanded() -> None:
    view = view_of(SIX, {(1, 0): 0.3, (1, 1): 0.15})
    for threshold, expected in ((0.1, [(1, 0), (1, 1)]), (0.2, [(1, 0)]), (0.4, [])):
        assert edits(greedy(expand_threshold=threshold).plan(view, Budget(100)))[0] == expected


def test_collapse_threshold_says_who_may_pay() -> None:
    view = view_of(SIX, {(1, 0): 0.9, (1, 3): -0.3, (1, 2): 0.2, (1, 4): 0.2, (1, 5): 0.2})
    for threshold, expected in ((0.2, [(1, 3)]), (0.4, [])):
        assert edits(greedy(collapse_threshold=threshold).plan(view, Budget(22)))[1] == expected


@pytest.mark.parametrize(
    ("limit", "rounds", "expected"), [(0, 1, 0), (1, 1, 1), (3, 1, 3), (3, 2, 6), (2, 3, 6), (4, 4, 8)]
)
def test_max_replacements_and_iterations_bound_the_expansions(limit: int, rounds: int, expected: int) -> None:
    view = view_of(blocks_of([1] * 8), {(1, block): 0.5 + block / 100 for block in range(8)})
    plan = greedy(max_replacements=limit, iterations=rounds).plan(view, Budget(1000))
    assert edits(plan) == ([(1, block) for block in range(7, 7 - expected, -1)], [])


def test_a_second_iteration_can_collapse_what_the_first_made_but_not_expand_it() -> None:
    # Two open LOD2 nodes: the old one can shrink twice, the closed LOD1 blocks of the new one ask for detail.
    cut = cuts.from_levels([0] * K + [1] * (K - 1) + [1] * K + [0] * TAIL, K)
    scores = {(2, 0): -0.5, (2, 1): 0.5}
    once = greedy(iterations=1, max_replacements=1).plan(view_of(cut, scores), Budget(len(cut)))
    assert edits(once) == ([(1, 7)], [(1, 0)])
    twice = greedy(iterations=2, max_replacements=1).plan(view_of(cut, scores), Budget(len(cut)))
    assert edits(twice) == ([(1, 7), (1, 6)], [(1, 0), (2, 0)])
    closed = cuts.coarsest(K**2 + TAIL, K, MAX_LOD, TAIL)
    assert edits(greedy(iterations=4).plan(view_of(closed, {(2, 0): 0.9}), Budget(100))) == ([(2, 0)], [])


def test_hysteresis_stops_a_swap_that_wins_by_too_little() -> None:
    scores = {(1, 0): 0.3, (1, 1): 0.6, (1, 3): -0.2, (1, 4): -0.3}
    for margin, expected in ((0.0, [(1, 1), (1, 0)]), (0.6, [(1, 1)]), (0.95, [])):
        plan = greedy(hysteresis=margin).plan(view_of(SIX, scores), Budget(22))
        assert edits(plan)[0] == expected
        assert len(plan.collapse) == len(expected)
    free = greedy(hysteresis=2.0).plan(view_of(SIX, scores), Budget(25))
    assert edits(free) == ([(1, 1)], []), "what costs nothing has nothing to beat"


def test_min_residency_keeps_the_young_as_they_are() -> None:
    scores = {(1, 0): 0.9, (1, 1): 0.5, (1, 3): -0.9, (1, 4): -0.5}
    ages = {(1, 0): 2, (0, 13): 1}  # a closed block, and one token of block 3
    for residency, expected in (
        (0, ([(1, 0), (1, 1)], [(1, 3), (1, 4)])),
        (1, ([(1, 0), (1, 1)], [(1, 3), (1, 4)])),
        (2, ([(1, 0)], [(1, 4)])),
        (3, ([(1, 1)], [(1, 4)])),
    ):
        assert edits(greedy(min_residency=residency).plan(view_of(SIX, scores, ages), Budget(22))) == expected


def test_the_young_shrink_when_nothing_older_is_left() -> None:
    ages = {(1, 2): 0, (1, 3): 0}
    scores = {(1, 2): -0.9, (1, 3): -0.8, (1, 4): 0.8, (1, 5): 0.9}
    for budget, expected in ((19, [4]), (16, [4, 5]), (13, [4, 5, 2])):
        plan = greedy(min_residency=3).plan(view_of(SIX, scores, ages), Budget(budget))
        assert edits(plan) == ([], [(1, block) for block in expected])


# --- sampling ---------------------------------------------------------------------------------------------------------

EIGHT = blocks_of([1] * 8 + [0] * 8)
RANKED = {
    **{(1, block): 0.9 - block / 10 for block in range(8)},
    **{(1, 8 + block): -0.9 + block / 10 for block in range(8)},
}
LOW: dict[str, Any] = {"expand_threshold": -1.0, "collapse_threshold": -1.0}


def first_choices(allocator: Allocator, budget: int, draws: int = 300) -> tuple[list[int], list[int]]:
    """Blocks that the first expansion and the first collapse of many plans took."""
    view = view_of(EIGHT, RANKED)
    plans = [edits(allocator.plan(view, Budget(budget))) for _ in range(draws)]
    return [expand[0][1] for expand, _ in plans if expand], [collapse[0][1] for _, collapse in plans if collapse]


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_sample_top_k_bounds_what_is_drawn(top_k: int) -> None:
    allocator = stochastic(sample_top_k=top_k, max_replacements=1, iterations=1, **LOW)
    expanded, collapsed = first_choices(allocator, len(EIGHT))
    assert set(expanded) == set(range(top_k))
    assert set(collapsed) == set(range(8, 8 + top_k))


def test_top_k_of_one_is_greedy() -> None:
    view = view_of(EIGHT, RANKED)
    for budget in (len(EIGHT) - 20, len(EIGHT), len(EIGHT) + 9):
        assert edits(stochastic(sample_top_k=1).plan(view, Budget(budget))) == edits(
            greedy().plan(view, Budget(budget))
        )


def test_draws_follow_the_softmax_of_the_scores() -> None:
    temperature = 0.2
    allocator = stochastic(
        sample_top_k=4, sample_temperature=temperature, max_replacements=1, iterations=1, collapse_threshold=-1.0
    )
    draws = 2000
    expanded, _ = first_choices(allocator, 1000, draws)
    weights = np.exp(np.array([0.9, 0.8, 0.7, 0.6]) / temperature)
    expected = weights / weights.sum()
    share = np.bincount(expanded, minlength=4) / draws
    assert np.abs(share - expected).max() < 4 * 0.5 / np.sqrt(draws)  # four standard errors; the seed is fixed


def test_a_low_temperature_is_greedy_and_a_high_one_is_even() -> None:
    options: dict[str, Any] = {"sample_top_k": 4, "max_replacements": 1, "iterations": 1}
    cold, _ = first_choices(stochastic(sample_temperature=0.001, **options), 1000)
    assert set(cold) == {0}
    hot, _ = first_choices(stochastic(sample_temperature=100.0, **options), 1000, 2000)
    assert np.abs(np.bincount(hot, minlength=4) / 2000 - 0.25).max() < 4 * 0.5 / np.sqrt(2000)


def test_nothing_is_drawn_twice_and_the_window_moves_on() -> None:
    allocator = stochastic(sample_top_k=3, max_replacements=8, iterations=1)
    seen = set()
    for _ in range(50):
        expand, _ = edits(allocator.plan(view_of(EIGHT, RANKED), Budget(1000)))
        assert sorted(expand) == [(1, block) for block in range(8)]
        for turn, (_, block) in enumerate(expand):
            assert block <= turn + 2, "only the three best that are left can be drawn"
        seen.add(tuple(expand))
    assert len(seen) > 5


def test_the_seed_and_the_number_of_the_plan_decide_the_draw() -> None:
    view, other = view_of(EIGHT, RANKED), view_of(EIGHT, {})
    one = [edits(plan) for plan in (stochastic(seed=1).plan(view, Budget(1000)) for _ in range(3))]
    assert one[0] == one[1] == one[2]
    allocator, busy = stochastic(seed=1), stochastic(seed=1)
    allocator.plan(view, Budget(1000))
    busy.plan(other, Budget(10))  # another view, another number of draws
    assert edits(allocator.plan(view, Budget(1000))) == edits(busy.plan(view, Budget(1000)))
    of_seeds = {str(edits(stochastic(seed=seed).plan(view, Budget(1000)))) for seed in range(20)}
    of_turns = {str(edits(allocator.plan(view, Budget(1000)))) for _ in range(20)}
    assert len(of_seeds) > 3
    assert len(of_turns) > 3


@pytest.mark.parametrize("build", [greedy, stochastic])
def test_repeated_plans_settle(build: Any) -> None:
    """With unchanging scores an allocator reaches a state it leaves alone: no thrash."""
    rows = [EIGHT]
    view = view_of(EIGHT, RANKED)
    allocator = build()
    for _ in range(20):
        scores = [spread(rows[0], RANKED, 0.0)]
        view = pack(rows, scores, [np.full(len(rows[0]), OLD, dtype=np.int32)])
        plan = allocator.plan(view, Budget(len(EIGHT)))
        rows = apply_batch(rows, plan, budget=len(EIGHT), recent_tokens=TAIL, max_lod=MAX_LOD)
    assert len(plan.expand) == 0
    assert len(plan.collapse) == 0
    opened = {(1, block) for block in range(8)}
    assert not opened & set(zip(rows[0].level.tolist(), rows[0].index.tolist(), strict=True))
