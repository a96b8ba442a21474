"""One refocus: whatever scores say and allocators plan, cuts stay legal and within the budget; what is measured, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mccore import plugins
from mccore.api import Allocator, AllocatorSpec, Budget, Edits, FocusView
from mccore.events import METRICS
from mccore.megacontext.focus.controller import Score, lens_score, prefill_focus, refocus, score_cuts
from mccore.megacontext.focus.measures import Refocus, block_ages, summarize
from mccore.megacontext.focus.state import FocusError, FocusState, Limits, append_tokens, start_focus
from mccore.megacontext.networks.lensnet import LensNet
from mccore.megacontext.tree.cut import Cut, IllegalEdit, check, coarsest, finest, from_levels, recency_pyramid
from tests.support.networks import networks, run_config

K, MAX_LOD, RECENT, BUDGET, INTERVAL = 4, 2, 6, 40, 5
LIMITS = Limits(BUDGET, K, MAX_LOD, room=INTERVAL)


def allocator(name: str, seed: int = 0, **options: Any) -> Allocator:
    extension = plugins.load("allocator", name)
    made = extension.options.model_validate({"recent_tokens": RECENT, **options})
    return extension.build(made, AllocatorSpec(K, MAX_LOD, seed))


@dataclass
class Scripted:
    """An allocator that plans what it is told, and remembers what it saw."""

    expand: Sequence[tuple[int, int, int]] = ()
    collapse: Sequence[tuple[int, int, int]] = ()
    recent_tokens: int = RECENT
    views: list[FocusView] = field(default_factory=list)

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        self.views.append(view)
        return Edits(*(np.array(nodes, dtype=np.int64).reshape(-1, 3) for nodes in (self.expand, self.collapse)))


def given_scores(scores: Sequence[NDArray[Any]]) -> Score:
    """Scores that are known before anyone asks."""
    return lambda cuts: scores


def by_lens(lensnet: LensNet, entries: Sequence[Tensor]) -> Score:
    """The scores of LensNet, of cuts with these embeddings."""
    return lens_score(lensnet, lambda cuts: entries, allocator("greedy"))


def legal(focus: FocusState, tokens: int, budget: int) -> None:
    check(focus.cut, tokens, max_lod=MAX_LOD, recent_tokens=RECENT, budget=budget)
    assert focus.age.shape == (len(focus.cut),)


def focus_of(*levels: int, age: int | Sequence[int] = 0) -> FocusState:
    cut = from_levels(levels, K)
    return FocusState(cut, np.broadcast_to(np.int32(age), len(cut)).copy() if isinstance(age, int) else np.int32(age))


# --- gates 5 and 9 ----------------------------------------------------------------------------------------------------

SCORES: dict[str, Callable[[Cut, int], NDArray[Any]]] = {
    "all +1": lambda cut, step: np.ones(len(cut)),
    "all -1": lambda cut, step: -np.ones(len(cut)),
    "alternating in time": lambda cut, step: np.full(len(cut), 1.0 if step % 2 else -1.0),
    "alternating in place": lambda cut, step: np.where(np.arange(len(cut)) % 2, 1.0, -1.0),
    "gists up, tokens down": lambda cut, step: np.where(cut.level > 0, 1.0, -1.0) * (-1) ** step,
    "random": lambda cut, step: np.random.default_rng(step).uniform(-1, 1, len(cut)),
    "zero": lambda cut, step: np.zeros(len(cut)),
}
HASTY = {"expand_threshold": -1.0, "collapse_threshold": 0.0, "hysteresis": 0.0, "min_residency": 0, "iterations": 4}


@pytest.mark.parametrize("options", [{}, HASTY], ids=["defaults", "hasty"])
@pytest.mark.parametrize("name", ["greedy", "stochastic_greedy"])
@pytest.mark.parametrize("scores", SCORES, ids=str)
def test_streams_stay_legal_and_within_budget_whatever_the_scores(
    name: str, scores: str, options: dict[str, Any]
) -> None:
    planner = allocator(name, **options)
    lengths = [BUDGET - INTERVAL, 17, 0, 80]  # sessions of different ages side by side
    focuses = [start_focus(tokens, LIMITS, RECENT) for tokens in lengths]
    for step in range(55):
        focuses = [append_tokens(focus, INTERVAL, LIMITS) for focus in focuses]
        lengths = [tokens + INTERVAL for tokens in lengths]
        for focus, tokens in zip(focuses, lengths, strict=True):
            legal(focus, tokens, BUDGET)
        done = refocus(focuses, given_scores([SCORES[scores](focus.cut, step) for focus in focuses]), planner, LIMITS)
        focuses = done.focuses
        for focus, tokens in zip(focuses, lengths, strict=True):
            legal(focus, tokens, BUDGET - INTERVAL)
    assert any(each.edits for each in done.measures)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(30, 120),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(-1, 30)), max_size=4),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(-1, 30)), max_size=4),
)
def test_edits_of_strangers_are_legal_or_refused_whole(
    tokens: int, expand: list[tuple[int, int, int]], collapse: list[tuple[int, int, int]]
) -> None:
    focuses = [start_focus(tokens, LIMITS, RECENT), start_focus(3 * tokens, LIMITS, RECENT)]
    before = [(focus.cut.level.tolist(), focus.cut.index.tolist(), focus.age.tolist()) for focus in focuses]
    scores = [np.zeros(len(focus.cut)) for focus in focuses]
    try:
        done = refocus(focuses, given_scores(scores), Scripted(expand, collapse), LIMITS)
    except IllegalEdit:
        done = None
    assert [(focus.cut.level.tolist(), focus.cut.index.tolist(), focus.age.tolist()) for focus in focuses] == before
    if done is not None:
        for focus, n in zip(done.focuses, (tokens, 3 * tokens), strict=True):
            legal(focus, n, BUDGET - INTERVAL)


def test_a_plan_that_is_legal_for_one_row_only_changes_none() -> None:
    focuses = [focus_of(1, 1, 1, *[0] * 8), focus_of(1, 1, 1, *[0] * 8)]
    scores = [np.zeros(len(focus.cut)) for focus in focuses]
    with pytest.raises(IllegalEdit, match=r"row 1: expand \(1, 9\)"):
        refocus(focuses, given_scores(scores), Scripted(expand=[(0, 1, 0), (1, 1, 9)]), LIMITS)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"collapse": [(0, 1, 3)]}, "reaches into the last 6 tokens"),
        ({"expand": [(0, 0, 12)]}, "a token has nothing below it"),
        ({"collapse": [(0, 3, 0)]}, "a level from 1 to 2"),
        ({"expand": [(0, 1, 0)], "collapse": [(0, 1, 0)]}, "the same set expands what it covers"),
        ({"expand": [(1, 1, 0)]}, "there is no row 1"),
    ],
    ids=lambda value: str(value),
)
def test_what_an_allocator_may_not_do(edits: dict[str, Any], message: str) -> None:
    focus = focus_of(1, 1, 1, *[0] * 8)
    with pytest.raises(IllegalEdit, match=message):
        refocus([focus], given_scores([np.zeros(11)]), Scripted(**edits), LIMITS)


def test_an_allocator_that_leaves_a_row_over_its_limit_is_refused() -> None:
    focus = append_tokens(start_focus(30, LIMITS, RECENT), 10, LIMITS)
    with pytest.raises(IllegalEdit, match="more than the budget of 35"):
        refocus([focus], given_scores([np.zeros(40)]), Scripted(), LIMITS)


def test_the_tail_is_the_allocators_own() -> None:
    focus = focus_of(1, 1, 1, *[0] * 8)
    refocus([focus], given_scores([np.zeros(11)]), Scripted(collapse=[(0, 1, 3)], recent_tokens=4), LIMITS)
    with pytest.raises(IllegalEdit, match="reaches into the last 5 tokens"):
        refocus([focus], given_scores([np.zeros(11)]), Scripted(collapse=[(0, 1, 3)], recent_tokens=5), LIMITS)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.01])
def test_a_score_that_is_none_is_refused(bad: float) -> None:
    focuses = [focus_of(1, *[0] * 8), focus_of(1, *[0] * 8)]
    scores = [np.zeros(9), np.zeros(9)]
    scores[1][4] = bad
    with pytest.raises(FocusError, match=r"the score of entry 4 of row 1, \(0, 7\), is"):
        refocus(focuses, given_scores(scores), allocator("greedy"), LIMITS)


def test_scores_of_another_cut_are_refused() -> None:
    with pytest.raises(FocusError, match=r"row 0 has 9 entries and scores \[8\]"):
        refocus([focus_of(1, *[0] * 8)], given_scores([np.zeros(8)]), allocator("greedy"), LIMITS)


def lens_and_entries(cuts: Sequence[Cut], seed: int = 0) -> tuple[LensNet, list[Tensor]]:
    _, nets = networks(run_config())
    generator = torch.Generator().manual_seed(seed)
    return nets.lensnet, [torch.randn(len(cut), 32, generator=generator) for cut in cuts]


def test_scores_of_many_sessions_are_those_of_each_alone() -> None:
    cuts = [
        recency_pyramid(n, K, MAX_LOD, RECENT, budget)
        for n, budget in ((90, 30), (90, 36), (50, 30), (93, 30), (8, 30), (0, 9))
    ]
    lensnet, entries = lens_and_entries(cuts)
    together = score_cuts(lensnet, entries, cuts, RECENT, torch.float32)
    for cut, embeddings, scores in zip(cuts, entries, together, strict=True):
        assert scores.shape == (len(cut),)
        assert scores.dtype == np.float32
        assert (np.abs(scores) < 1).all()
        if len(cut):
            alone = score_cuts(lensnet, [embeddings], [cut], RECENT, torch.float32)[0]
            np.testing.assert_allclose(scores, alone, atol=1e-5)
    assert any(scores.std() > 1e-3 for scores in together)


def test_only_what_can_be_edited_competes() -> None:
    cut = recency_pyramid(90, K, MAX_LOD, RECENT, 30)
    lensnet, entries = lens_and_entries([cut])
    scores = score_cuts(lensnet, entries, [cut], RECENT, torch.float32)[0]
    editable = cut.stop <= (90 - RECENT) // K * K
    assert editable.any()
    assert not scores[~editable].any()  # neutral
    assert scores[editable].any()


def test_a_broken_lensnet_stops_the_refocus() -> None:
    focus = start_focus(60, LIMITS, RECENT)
    lensnet, entries = lens_and_entries([focus.cut])
    with torch.no_grad():
        lensnet.key.weight[0, 0] = torch.nan
    with pytest.raises(FocusError, match="is nan: scores lie in") as error:
        refocus([focus], by_lens(lensnet, entries), allocator("greedy"), LIMITS)
    assert error.value.hint is not None


def test_a_refocus_is_its_scores_planned_and_applied() -> None:
    focuses = [
        FocusState(cut, np.full(len(cut), 9, dtype=np.int32))
        for cut in (recency_pyramid(n, K, MAX_LOD, RECENT, 33) for n in (70, 120))
    ]
    cuts = [focus.cut for focus in focuses]
    lensnet, entries = lens_and_entries(cuts)
    options = {"expand_threshold": 0.0, "collapse_threshold": 0.0, "hysteresis": 0.0}
    done = refocus(focuses, by_lens(lensnet, entries), allocator("greedy", **options), LIMITS)
    scores = score_cuts(lensnet, entries, cuts, RECENT, torch.float32)
    planned = refocus(focuses, given_scores(scores), allocator("greedy", **options), LIMITS)
    assert [focus.cut for focus in done.focuses] == [focus.cut for focus in planned.focuses]
    assert [focus.cut for focus in done.focuses] != cuts
    assert done.measures == planned.measures
    assert done.duration > 0


# --- beginnings -------------------------------------------------------------------------------------------------------


def test_a_history_starts_as_finely_as_it_fits() -> None:
    assert start_focus(35, LIMITS, RECENT).cut == finest(35, K)
    assert start_focus(36, LIMITS, RECENT).cut == recency_pyramid(36, K, MAX_LOD, RECENT, 35)
    assert start_focus(36, LIMITS, RECENT, coarse=True).cut == coarsest(36, K, MAX_LOD, RECENT)
    assert start_focus(0, LIMITS, RECENT).cut == finest(0, K)


def test_a_history_that_cannot_fit_says_so() -> None:
    most = max(n for n in range(3000) if len(coarsest(n, K, MAX_LOD, RECENT)) <= LIMITS.entries)
    focus = start_focus(most, LIMITS, RECENT)
    legal(focus, most, LIMITS.entries)
    too_long = next(n for n in range(most, most + 99) if len(coarsest(n, K, MAX_LOD, RECENT)) > LIMITS.entries)
    with pytest.raises(FocusError, match=rf"a history of {too_long} tokens takes at least 36 entries .* has 40, 5 of"):
        start_focus(too_long, LIMITS, RECENT)
    grown = append_tokens(focus, too_long - most, LIMITS)
    with pytest.raises(FocusError, match="takes at least 36 entries"):
        refocus([grown], given_scores([np.zeros(len(grown.cut))]), allocator("greedy"), LIMITS)


def test_tokens_that_do_not_fit_are_refused() -> None:
    focus = start_focus(35, LIMITS, RECENT)
    assert len(append_tokens(focus, 5, LIMITS).cut) == BUDGET
    with pytest.raises(FocusError, match="6 more tokens don't fit a Working Context that has 35 of 40 entries"):
        append_tokens(focus, 6, LIMITS)


@pytest.mark.parametrize("coarse", [False, True])
def test_prefill_refines_what_it_started_from(coarse: bool) -> None:
    lengths = [150, 200, 20]
    lensnet, _ = lens_and_entries([])
    table = torch.randn(400, 32, generator=torch.Generator().manual_seed(2))

    def read(cuts: Sequence[Cut]) -> list[Tensor]:
        return [table[torch.from_numpy(cut.start % 400)] for cut in cuts]

    planner = allocator("greedy", expand_threshold=0.0, collapse_threshold=0.0, hysteresis=0.0)
    starts, score = [start_focus(n, LIMITS, RECENT, coarse=coarse) for n in lengths], lens_score(lensnet, read, planner)
    focuses = prefill_focus(starts, score, planner, LIMITS)
    for focus, tokens in zip(focuses, lengths, strict=True):
        legal(focus, tokens, LIMITS.entries)
        assert not focus.age.any()
        assert focus.recent == ()
    started = [focus.cut for focus in starts]
    assert focuses[0].cut != started[0]
    assert focuses[2].cut == finest(20, K)
    none = prefill_focus(starts, score, planner, LIMITS, rounds=0)
    assert [focus.cut for focus in none] == started


# --- measures, by hand ------------------------------------------------------------------------------------------------


def only(done: Refocus) -> Any:
    assert len(done.measures) == 1
    return done.measures[0]


def edited(focus: FocusState, **edits: Any) -> Refocus:
    return refocus([focus], given_scores([np.zeros(len(focus.cut))]), Scripted(**edits), LIMITS)


def test_measures_of_a_refocus() -> None:
    # 38 tokens: one LOD2 node (16), two gists (8), 14 tokens. (38 - 6) // 4 = 8 blocks are editable: 4, 2, and 2 as tokens.
    focus = focus_of(2, 1, 1, *[0] * 14, age=[9, 4, 2, 5, 1, 5, 5, 0, *[3] * 9])
    found = only(edited(focus, expand=[(0, 1, 4)], collapse=[(0, 1, 7)]))
    assert found.swap_rate == 2 / 8
    assert found.residency == 17 / 40  # entries in use when it began
    assert found.raw_share == 14 / 38
    assert found.reprefill_entries == 17 - 1  # everything behind the LOD2 node
    assert (found.edits, found.undone, found.editable) == (2, 0, 8)
    # Blocks: four of age 10, the expanded one 0, the gist beside it 3, the token block 6 as old as its youngest (2), one 0.
    assert found.dwell == pytest.approx((4 * 10 + 0 + 3 + 2 + 0) / 8)
    assert found.dwell_p95 == 10


def test_expanding_a_coarse_node_changes_every_block_under_it() -> None:
    focus = focus_of(2, *[0] * 12)
    found = only(edited(focus, expand=[(0, 2, 0)]))
    assert found.swap_rate == 4 / 5
    assert found.edits == 1
    assert found.reprefill_entries == 16
    twice = only(edited(focus, expand=[(0, 2, 0), (0, 1, 2)]))
    assert twice.swap_rate == 4 / 5
    assert twice.edits == 2


def test_a_refocus_without_edits() -> None:
    focus = focus_of(1, 1, *[0] * 10, age=2)
    done = edited(focus)
    found = only(done)
    assert (found.swap_rate, found.edits, found.undone, found.reprefill_entries) == (0, 0, 0, 0)
    assert found.dwell == found.dwell_p95 == 3
    assert summarize([done])["thrash"] == 0


def test_an_empty_history_is_measured() -> None:
    found = only(edited(focus_of()))
    assert (found.swap_rate, found.residency, found.dwell, found.raw_share, found.editable) == (0, 0, 0, 1, 0)


def test_p95_counts_blocks_not_entries() -> None:
    cut = from_levels([2, *[1] * 76, *[0] * 8], K)  # 4 + 76 blocks, and 2 of tokens of which one is editable
    age = np.array([50, *[1] * 76, *[7] * 8])
    ages, weights = block_ages(cut, age, 81)
    assert int(weights.sum()) == 81
    assert np.sort(np.repeat(ages, weights))[76] == 7  # the 77th of 81: 95 % aren't older
    limits = Limits(200, K, MAX_LOD)
    measured = refocus(
        [FocusState(cut, np.int32(age))], given_scores([np.zeros(len(cut))]), Scripted(recent_tokens=4), limits
    )
    assert only(measured).dwell_p95 == 8  # one refocus later


def test_thrash_is_what_is_taken_back_within_three_refocuses() -> None:
    start = focus_of(1, 1, 1, *[0] * 8)

    def run(*plans: dict[str, Any]) -> list[Any]:
        focus, found = start, []
        for plan in plans:
            done = edited(focus, **plan)
            focus = done.focuses[0]
            found.append(done)
        return found

    expand, collapse = {"expand": [(0, 1, 1)]}, {"collapse": [(0, 1, 1)]}
    assert [only(done).undone for done in run(expand, collapse)] == [0, 1]
    assert summarize(run(expand, collapse))["thrash"] == 1 / 2
    assert [only(done).undone for done in run(expand, {}, {}, collapse)] == [0, 0, 0, 1]
    assert [only(done).undone for done in run(expand, {}, {}, {}, collapse)] == [0, 0, 0, 0, 0]
    assert [only(done).undone for done in run(expand, collapse, expand)] == [0, 1, 1]
    both = {"expand": [(0, 1, 2)], "collapse": [(0, 1, 1)]}
    assert [only(done).undone for done in run(expand, both)] == [0, 1]
    assert summarize(run(expand, both))["thrash"] == 1 / 3


def test_ages_count_refocuses_and_start_again_at_an_edit() -> None:
    focus = focus_of(1, 1, 1, *[0] * 8)
    planner = Scripted()
    for _ in range(3):
        focus = refocus([focus], given_scores([np.zeros(len(focus.cut))]), planner, LIMITS).focuses[0]
    focus = append_tokens(focus, 2, LIMITS)
    focus = edited(focus, expand=[(0, 1, 1)]).focuses[0]
    assert focus.age.tolist() == [4, 0, 0, 0, 0, 4, *[4] * 8, 1, 1]
    assert [view.age[0].tolist() for view in planner.views] == [[age] * 11 for age in range(3)]


def test_summaries_are_means_under_the_names_of_the_table() -> None:
    quiet, busy = focus_of(1, 1, *[0] * 10), focus_of(1, 1, 1, *[0] * 8, age=5)
    done = refocus([quiet, busy], given_scores([np.zeros(12), np.zeros(11)]), Scripted(expand=[(1, 1, 0)]), LIMITS)
    found = summarize([done, done])
    assert set(found) == {
        "swap_rate", "residency", "dwell", "dwell/p95", "thrash", "raw_share", "controller_duration", "reprefill_entries",
    }  # fmt: skip
    assert {name.partition("/")[0] for name in found} <= set(METRICS)
    assert found["swap_rate"] == pytest.approx((0 + 1 / 3) / 2)
    assert found["residency"] == pytest.approx((12 + 11) / 2 / 40)
    assert found["reprefill_entries"] == pytest.approx(14 / 2)
    assert found["controller_duration"] == done.duration
    assert summarize([]) == {}
