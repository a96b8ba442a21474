"""Allocators and options that are wrong in one way each: see test_suites.py.

The healthy ones are the built-in ones, under the same suite in their own tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from mccore_allocators.greedy import GreedyAllocator, GreedyOptions
from mccore_allocators.spans import SpansAllocator, SpansOptions
from pydantic import BaseModel, ConfigDict, Field

from mccore.api import Edits, Extension, Options
from mccore.testing import AllocatorSuite


class ZooAllocator(AllocatorSuite):
    allocator: ClassVar[type]
    options_type: ClassVar[type[Options]] = GreedyOptions

    def extension(self) -> Extension[Any]:
        return Extension(build=self.allocator, options=self.options_type, summary="an allocator of the zoo")


class TestOffByOne(ZooAllocator):
    """Expands the neighbour."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return Edits(edits.expand + np.array([0, 0, 1]), edits.collapse)


class TestNamesTheChild(ZooAllocator):
    """Lists the first child instead of the parent."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            children = edits.collapse.copy()
            children[:, 1] -= 1
            children[:, 2] *= self._spec.block_size
            return Edits(edits.expand, children)


class TestRepeats(ZooAllocator):
    """Lists an edit twice."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return Edits(np.concatenate([edits.expand, edits.expand[:1]]), edits.collapse)


class TestOverlaps(ZooAllocator):
    """Collapses what it expands."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return Edits(edits.expand, np.concatenate([edits.collapse, edits.expand]))


class TestEatsTheTail(ZooAllocator):
    """Publishes a tail and collapses it all the same."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def __init__(self, options: GreedyOptions, spec: Any) -> None:
            super().__init__(options, spec)
            self.published = self.recent_tokens

        def plan(self, view: Any, budget: Any) -> Edits:
            self.recent_tokens = 0
            edits = super().plan(view, budget)
            self.recent_tokens = self.published
            return edits


class TestBeyondTheTop(ZooAllocator):
    """Makes nodes coarser than max_lod."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def __init__(self, options: GreedyOptions, spec: Any) -> None:
            super().__init__(options, type(spec)(spec.block_size, spec.max_lod + 1, spec.seed))


class TestNoEmptyRows(ZooAllocator):
    """Doesn't expect a row without a history."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            assert all(row.max() > -2 for row in view.score)  # max of nothing
            return super().plan(view, budget)


class TestSpendthrift(ZooAllocator):
    """Has its own idea of the budget."""

    caught_by = "test_plans_stay_within_the_budget"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            return super().plan(view, type(budget)(budget.entries + 1))


class TestOneLevelOnly(ZooAllocator):
    """Doesn't collapse further than one level, even where that isn't enough."""

    caught_by = "test_plans_stay_within_the_budget"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            there = set(zip(*(table.tolist() for table in self.parents(view)), strict=True))
            return Edits(edits.expand, edits.collapse[[tuple(edit) in there for edit in edits.collapse.tolist()]])

        def parents(self, view: Any) -> Any:
            row, column = np.nonzero(view.level >= 0)
            return row, view.level[row, column] + 1, view.index[row, column] // self._spec.block_size


class TestNeverShrinks(ZooAllocator):
    """Only ever expands."""

    caught_by = "test_plans_stay_within_the_budget"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, type(budget)(10**9))
            return Edits(edits.expand[:0], edits.collapse)


class TestEditsTheView(ZooAllocator):
    """Clears scores that it has dealt with."""

    caught_by = "test_the_view_is_left_alone"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            if view.score.flags.writeable:
                view.score[view.score > 0.5] = 0
            return edits


class TestNeedsToWrite(ZooAllocator):
    """Writes into the view and puts back what was there."""

    caught_by = "test_takes_arrays_that_cannot_be_written"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            view.score[...] *= 1
            return super().plan(view, budget)


class TestUnseeded(ZooAllocator):
    """Draws from a generator of its own."""

    caught_by = "test_the_same_view_and_seed_give_the_same_plan"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return Edits(np.random.default_rng().permutation(edits.expand), edits.collapse)


class TestSumsOverPadding(ZooAllocator):
    """Compares scores with the mean of the whole array."""

    caught_by = "test_padding_changes_nothing"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return edits if view.score.sum() * 1e6 % 2 < 1 else Edits(edits.expand[::-1], edits.collapse)


class TestFirstComeFirstServed(ZooAllocator):
    """Works on what was found in the order in which it comes, until it is enough."""

    caught_by = "test_the_order_of_what_was_found_means_nothing"

    class allocator(SpansAllocator):
        def __init__(self, options: Options, spec: Any) -> None:
            super().__init__(SpansOptions(), spec)

        def plan(self, view: Any, budget: Any) -> Edits:
            if view.found is not None:
                served = replace(view.found, score=np.arange(len(view.found.score), 0.0, -1.0))
                view = replace(view, found=served)
            return super().plan(view, budget)


class TestForgetsPlaces(ZooAllocator):
    """Expands at each span found what it takes for a coarse entry, and doesn't look whether it is there."""

    caught_by = "test_plans_are_legal_and_keep_the_tail"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            if view.found is None:
                return edits
            index = view.found.start // self._spec.block_size
            blocks = np.stack([view.found.row, np.ones_like(index), index], axis=1)
            return Edits(np.unique(np.concatenate([edits.expand, blocks]), axis=0), edits.collapse)


class TestPythonLists(ZooAllocator):
    """Returns what isn't an integer array."""

    caught_by = "test_edits_are_integer_triples"

    class allocator(GreedyAllocator):
        def plan(self, view: Any, budget: Any) -> Edits:
            edits = super().plan(view, budget)
            return Edits(edits.expand.astype(float), edits.collapse.tolist())  # type: ignore[arg-type]


class TestSilentTail(ZooAllocator):
    """Doesn't publish its tail."""

    caught_by = "test_is_an_allocator"

    class allocator:
        def __init__(self, options: GreedyOptions, spec: Any) -> None:
            self.inner = GreedyAllocator(options, spec)

        def plan(self, view: Any, budget: Any) -> Edits:
            return self.inner.plan(view, budget)


class TestForgetsItsTailWhenHistoryGrows(ZooAllocator):
    """Is right for a first plan and wrong for a later one: it remembers the lengths of the first view."""

    caught_by = "test_many_refocuses_of_a_growing_history"

    class allocator(GreedyAllocator):
        seen: Any = None

        def plan(self, view: Any, budget: Any) -> Edits:
            if self.seen is None:
                self.seen = view.tokens
            return super().plan(type(view)(view.level, view.index, view.score, view.age, self.seen), budget)


# --- options ----------------------------------------------------------------------------------------------------------


class Undescribed(GreedyOptions):
    extra: int = 1


class Required(GreedyOptions):
    extra: int = Field(description="without a default")


class Thawed(GreedyOptions):
    model_config = ConfigDict(frozen=False)


class Careless(GreedyOptions):
    model_config = ConfigDict(extra="ignore")


class Inner(BaseModel):
    number: int = 1


class Unwritable(GreedyOptions):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    extra: float = Field(float("nan"), description="a value that equals nothing once it was written")


class TestUndescribedOption(ZooAllocator):
    caught_by = "test_options_have_defaults_and_descriptions"
    allocator = GreedyAllocator
    options_type = Undescribed


class TestRequiredOption(ZooAllocator):
    caught_by = "test_options_have_defaults_and_descriptions"
    allocator = GreedyAllocator
    options_type = Required


class TestThawedOptions(ZooAllocator):
    caught_by = "test_options_are_frozen"
    allocator = GreedyAllocator
    options_type = Thawed


class TestCarelessOptions(ZooAllocator):
    caught_by = "test_options_refuse_unknown_names"
    allocator = GreedyAllocator
    options_type = Careless


class TestUnwritableOption(ZooAllocator):
    caught_by = "test_options_survive_a_file"
    allocator = GreedyAllocator
    options_type = Unwritable


class TestNoSummary(ZooAllocator):
    caught_by = "test_extension_has_a_summary"

    def extension(self) -> Extension[Any]:
        return Extension(build=GreedyAllocator, options=GreedyOptions)
