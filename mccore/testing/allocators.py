"""The contract of `mccore.api.Allocator` as tests, over random Working Contexts of many shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mccore.api import Allocator, AllocatorSpec, Budget, Edits, Extension, FocusView, Found
from mccore.megacontext.focus.view import apply_batch, carry_ages, pack, unpack
from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.edits import append, apply
from mccore.testing.extensions import ExtensionSuite

Scores = Callable[[np.random.Generator, int], NDArray[np.float32]]
"""Scores float32 [L] for L entries."""


def random_scores(rng: np.random.Generator, entries: int) -> NDArray[np.float32]:
    """Scores float32 [entries], even over (-1, 1)."""
    return rng.uniform(-1, 1, size=entries).astype(np.float32)


ADVERSARIAL_SCORES: dict[str, Scores] = {
    "zero": lambda rng, entries: np.zeros(entries, dtype=np.float32),
    "all ask for detail": lambda rng, entries: np.full(entries, np.nextafter(np.float32(1), np.float32(0))),
    "all can shrink": lambda rng, entries: np.full(entries, np.nextafter(np.float32(-1), np.float32(0))),
    "all equal and mild": lambda rng, entries: np.full(entries, 0.1, dtype=np.float32),
    "extremes in turn": lambda rng, entries: np.resize(np.array([-0.999, 0.999], dtype=np.float32), entries),
    "tiny": lambda rng, entries: (rng.standard_normal(entries) * 1e-30).astype(np.float32),
    "newest ask for detail": lambda rng, entries: np.linspace(-0.99, 0.99, entries, dtype=np.float32),
    "oldest ask for detail": lambda rng, entries: np.linspace(0.99, -0.99, entries, dtype=np.float32),
}


def random_cut(
    rng: np.random.Generator,
    tokens: int,
    block_size: int,
    max_lod: int,
    recent_tokens: int,
    *,
    detail: float | None = None,
) -> Cut:
    """A legal cut of a history: the coarsest one with a random share `detail` of its nodes expanded at each level."""
    cut = cuts.coarsest(tokens, block_size, max_lod, recent_tokens)
    share = rng.random() if detail is None else detail
    for lod in range(max_lod, 0, -1):
        chosen = (cut.level == lod) & (rng.random(len(cut)) < share)
        nodes = np.stack([cut.level[chosen].astype(np.int64), cut.index[chosen]], axis=1)
        cut = apply(cut, nodes, [], budget=tokens, recent_tokens=recent_tokens, max_lod=max_lod)
    return cut


def random_view(
    rng: np.random.Generator,
    tokens: list[int],
    spec: AllocatorSpec,
    recent_tokens: int,
    *,
    scores: Scores = random_scores,
    padding: int = 0,
) -> FocusView:
    """A legal view of one row per history length, every array writable, with `padding` more columns than it needs."""
    rows = [random_cut(rng, n, spec.block_size, spec.max_lod, recent_tokens) for n in tokens]
    ages = [rng.integers(0, 12, size=len(row)).astype(np.int32) for row in rows]
    width = max((len(row) for row in rows), default=0) + padding
    return pack(rows, [scores(rng, len(row)) for row in rows], ages, width=width)


def random_found(rng: np.random.Generator, tokens: list[int], block_size: int, *, most: int = 6) -> Found:
    """Up to `most` spans of each history, of one to four blocks, at multiples of their width and in no order."""
    spans = []
    for row, n in enumerate(tokens):
        width = block_size * int(rng.integers(1, 5))
        places = rng.permutation(n // width)[: rng.integers(0, most + 1)]
        spans += [(row, place * width, (place + 1) * width) for place in places.tolist()]
    row, start, stop = rng.permutation(np.array(spans, dtype=np.int64).reshape(-1, 3)).T.copy()
    return Found(row, start, stop, rng.uniform(0.1, 10, len(spans)))


@dataclass(frozen=True)
class Case:
    """One view with its limits. `max_lod` and `block_size` are those of the allocator's spec."""

    name: str
    block_size: int
    max_lod: int
    view: FocusView
    budget: Budget


def cases(recent_tokens: int) -> Iterator[Case]:
    """Views for an allocator that keeps `recent_tokens`: shapes, budgets and scores, the usual and the awkward."""
    r = recent_tokens
    for seed, (size, max_lod) in enumerate([(4, 2), (4, 3), (8, 2), (2, 5), (32, 2), (5, 3)]):
        rng, spec = np.random.default_rng(seed), AllocatorSpec(size, max_lod, seed)
        block, top = size, size**max_lod
        lengths = {
            "usual": [r + 3 * top + 5, r + 2 * top, r + top + block, r + 7 * block + 1],
            "one row": [r + 2 * top + 17],
            "around the tail": [0, 1, max(r - 1, 0), r, r + 1, r + block - 1, r + block, r + top],
            "no history": [0, 0],
            "no rows": [],
        }
        for name, tokens in lengths.items():
            view = random_view(rng, tokens, spec, r, padding=int(rng.integers(0, 3)))
            entries = [len(row) for row in unpack(view, size)]
            longest = max(entries, default=0)
            searched = replace(view, found=random_found(rng, tokens, size))
            budgets = {longest + 10 * size, longest + size - 1, longest, max(longest - 3 * size, 0), longest // 2}
            for turn, budget in enumerate(sorted(budgets)):  # every other one with what a search found
                text = f"K={size} max_lod={max_lod} {name} W={budget}{' found' * (turn % 2)}"
                yield Case(text, size, max_lod, searched if turn % 2 else view, Budget(budget))
        for name, scores in ADVERSARIAL_SCORES.items():
            view = random_view(rng, [r + 2 * top + 3, r + top], spec, r, scores=scores)
            longest = max(len(row) for row in unpack(view, size))
            for budget in (longest + size, longest, longest - size, 0):
                yield Case(f"K={size} max_lod={max_lod} scores {name} W={budget}", size, max_lod, view, Budget(budget))
        finest = pack([cuts.finest(r + 2 * top + 1, size)])
        yield Case(f"K={size} max_lod={max_lod} tokens only, far over", size, max_lod, finest, Budget(r + 2 * size))


class AllocatorSuite(ExtensionSuite):
    """Subclass it and override `extension`; override `options` to test others than the defaults."""

    def extension(self) -> Extension[Allocator]:
        """What your `mccore_allocator` hook returns. Override this."""
        allocator: Extension[Allocator] = super().extension()
        return allocator

    def build(self, block_size: int = 4, max_lod: int = 2, seed: int = 0) -> Allocator:
        """A fresh allocator with the suite's options."""
        return self.extension().build(self.options(), AllocatorSpec(block_size, max_lod, seed))

    def cases(self) -> Iterator[Case]:
        """The views that every test below goes through."""
        return cases(self.build().recent_tokens)

    def test_is_an_allocator(self) -> None:
        allocator = self.build()
        assert isinstance(allocator, Allocator)
        assert isinstance(allocator.recent_tokens, int)
        assert allocator.recent_tokens >= 0

    def test_edits_are_integer_triples(self) -> None:
        for case in self.cases():
            edits = self.build(case.block_size, case.max_lod).plan(case.view, case.budget)
            assert isinstance(edits, Edits), case.name
            for name, table in (("expand", edits.expand), ("collapse", edits.collapse)):
                assert isinstance(table, np.ndarray), f"{case.name}: {name}"
                assert table.dtype == np.int64, f"{case.name}: {name} is {table.dtype}, not int64"
                assert table.ndim == 2, f"{case.name}: {name} has shape {table.shape}, not [edits, 3]"
                assert table.shape[1] == 3, f"{case.name}: {name} has shape {table.shape}, not [edits, 3]"

    def test_plans_are_legal_and_keep_the_tail(self) -> None:
        for case in self.cases():
            allocator = self.build(case.block_size, case.max_lod)
            before = unpack(case.view, case.block_size)
            after = apply_plan(allocator, case, budget=no_limit(before))
            for row, tokens in zip(after, case.view.tokens.tolist(), strict=True):
                cuts.check(row, tokens, max_lod=case.max_lod, recent_tokens=allocator.recent_tokens)

    def test_plans_stay_within_the_budget(self) -> None:
        for case in self.cases():
            allocator = self.build(case.block_size, case.max_lod)
            after = apply_plan(allocator, case, budget=no_limit(unpack(case.view, case.block_size)))
            for number, row in enumerate(after):
                shortest = len(cuts.coarsest(row.tokens, case.block_size, case.max_lod, allocator.recent_tokens))
                allowed = max(case.budget.entries, shortest)
                assert len(row) <= allowed, (
                    f"{case.name}: row {number} has {len(row)} entries afterwards; the budget is {case.budget.entries} and "
                    f"the shortest legal cut has {shortest}"
                )

    def test_the_view_is_left_alone(self) -> None:
        for case in self.cases():
            before = copy.deepcopy(case.view)
            self.build(case.block_size, case.max_lod).plan(case.view, case.budget)
            for (name, now), (_, then) in zip(arrays(case.view), arrays(before), strict=True):
                np.testing.assert_array_equal(now, then, err_msg=f"{case.name}: {name}")

    def test_takes_arrays_that_cannot_be_written(self) -> None:
        for case in self.cases():
            view = copy.deepcopy(case.view)
            for _, array in arrays(view):
                array.flags.writeable = False
            self.build(case.block_size, case.max_lod).plan(view, case.budget)

    def test_the_same_view_and_seed_give_the_same_plan(self) -> None:
        for case in self.cases():
            one, two = (self.build(case.block_size, case.max_lod, seed=7) for _ in range(2))
            for turn in range(2):  # one that draws at random goes on drawing, the same way in both
                first, second = one.plan(case.view, case.budget), two.plan(case.view, case.budget)
                assert same_edits(first, second), f"{case.name}: plan {turn} differs between two fresh allocators"

    def test_padding_changes_nothing(self) -> None:
        for case in self.cases():
            rows = len(case.view.tokens)
            noise = np.random.default_rng(0)
            wider = replace(  # scores, indices and ages under the padding are anything
                case.view,
                level=np.pad(case.view.level, ((0, 0), (0, 5)), constant_values=cuts.PADDING),
                index=np.concatenate([case.view.index, noise.integers(0, 99, (rows, 5))], axis=1),
                score=np.concatenate([case.view.score, noise.uniform(-1, 1, (rows, 5)).astype(np.float32)], axis=1),
                age=np.concatenate([case.view.age, noise.integers(0, 99, (rows, 5)).astype(np.int32)], axis=1),
            )
            narrow = self.build(case.block_size, case.max_lod).plan(case.view, case.budget)
            assert same_edits(narrow, self.build(case.block_size, case.max_lod).plan(wider, case.budget)), case.name

    def test_the_order_of_what_was_found_means_nothing(self) -> None:
        for case in self.cases():
            if (found := case.view.found) is not None:
                turned = Found(found.row[::-1], found.start[::-1], found.stop[::-1], found.score[::-1])
                plans = [
                    self.build(case.block_size, case.max_lod).plan(view, case.budget)
                    for view in (case.view, replace(case.view, found=turned))
                ]
                assert edit_set(plans[0]) == edit_set(plans[1]), case.name

    @pytest.mark.parametrize("seed", range(3))
    def test_many_refocuses_of_a_growing_history(self, seed: int) -> None:
        size, max_lod = 4, 3
        rng = np.random.default_rng(seed)
        allocator = self.build(size, max_lod, seed)
        budget = allocator.recent_tokens + 12 * size
        rows = [cuts.finest(0, size) for _ in range(3)]
        ages = [np.zeros(0, dtype=np.int32) for _ in rows]
        for _ in range(60):
            grown = [append(row, int(rng.integers(0, 3 * size))) for row in rows]
            ages = [np.pad(age, (0, len(row) - len(age))) for age, row in zip(ages, grown, strict=True)]
            view = pack(grown, [random_scores(rng, len(row)) for row in grown], ages)
            view = replace(view, found=random_found(rng, view.tokens.tolist(), size))
            shortest = max(len(cuts.coarsest(row.tokens, size, max_lod, allocator.recent_tokens)) for row in grown)
            rows = apply_batch(
                grown,
                allocator.plan(view, Budget(budget)),
                budget=max(budget, shortest),
                recent_tokens=allocator.recent_tokens,
                max_lod=max_lod,
            )
            ages = [carry_ages(old, new, age) for old, new, age in zip(grown, rows, ages, strict=True)]
            for row, old in zip(rows, grown, strict=True):
                cuts.check(row, old.tokens, max_lod=max_lod, recent_tokens=allocator.recent_tokens)


def apply_plan(allocator: Allocator, case: Case, *, budget: int) -> list[Cut]:
    """The rows of a case after the allocator's plan, applied by the core's own rules."""
    before = unpack(case.view, case.block_size)
    try:
        return apply_batch(
            before,
            allocator.plan(case.view, case.budget),
            budget=budget,
            recent_tokens=allocator.recent_tokens,
            max_lod=case.max_lod,
        )
    except cuts.IllegalEdit as error:
        raise AssertionError(f"{case.name}: {error.message}") from error


def arrays(view: FocusView) -> list[tuple[str, NDArray[Any]]]:
    """Every array of a view with its name, those of what was found included."""
    named = [(field.name, getattr(view, field.name)) for field in fields(FocusView) if field.name != "found"]
    if view.found is not None:
        named += [(f"found.{field.name}", getattr(view.found, field.name)) for field in fields(Found)]
    return named


def no_limit(rows: list[Cut]) -> int:
    """A budget that no cut of these rows can exceed."""
    return max((row.tokens for row in rows), default=0)


def same_edits(one: Edits, two: Edits) -> bool:
    """Whether two plans are the same edits in the same order."""
    return np.array_equal(one.expand, two.expand) and np.array_equal(one.collapse, two.collapse)


def edit_set(edits: Edits) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """The edits of a plan without their order: expansions and collapses as `(row, level, index)`."""
    return set(map(tuple, edits.expand.tolist())), set(map(tuple, edits.collapse.tolist()))
