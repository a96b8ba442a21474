"""Plugins that are wrong in one way each, and healthy ones they derive from, every one under its conformance suite.

`test_suites.py` runs this file: the test named by `caught_by` has to fail, and the healthy classes have to pass. pytest
doesn't collect it by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mccore_allocators.greedy import GreedyAllocator, GreedyOptions
from mccore_allocators.spans import SpansAllocator, SpansOptions
from pydantic import BaseModel, ConfigDict, Field

from mccore.api import (
    Edits,
    EventsLost,
    Extension,
    LevelSpec,
    Options,
    PanelSpec,
    Recipe,
    Span,
    TelemetrySpec,
    TreeSpec,
)
from mccore.config import ChatTrainConfig, Choice, MegaContextConfig, ModelConfig, RunConfig
from mccore.errors import MccoreError
from mccore.events import Event
from mccore.testing import AllocatorSuite, PanelSuite, RecipeSuite, TelemetryProviderSuite, TreeBackendSuite

# --- trees ------------------------------------------------------------------------------------------------------------


class ArrayTree:
    """A healthy tree: one array per level, copied whole at each append; with a directory, saved whole at each flush."""

    keeps_files = False

    def __init__(self, options: Options, spec: TreeSpec) -> None:
        self.spec = spec
        self.arrays = [np.empty((0, *level.shape), dtype=level.dtype) for level in spec.levels]
        if self.keeps_files and spec.directory is not None:
            spec.directory.mkdir(parents=True, exist_ok=True)
            self.load(spec.directory)

    def load(self, directory: Path) -> None:
        files = sorted(directory.glob("*.npy"))
        loaded = [np.load(file) for file in files]
        if files and [self.type_of(rows) for rows in loaded] != [self.type_of(rows) for rows in self.arrays]:
            raise ValueError("another tree's rows are in the directory")
        self.arrays = loaded or self.arrays

    def type_of(self, rows: Any) -> LevelSpec:
        return LevelSpec(rows.shape[1:], rows.dtype.name)

    def at(self, level: int) -> Any:
        if not 0 <= level < len(self.arrays):
            raise IndexError(level)
        return self.arrays[level]

    def length(self, level: int) -> int:
        return len(self.at(level))

    def check(self, level: int, rows: Any) -> None:
        there = self.at(level)
        if rows.ndim == 0 or rows.shape[1:] != there.shape[1:] or rows.dtype != there.dtype:
            raise ValueError("other rows than these")

    def append(self, level: int, rows: Any) -> None:
        self.check(level, rows)
        self.arrays[level] = np.concatenate([self.at(level), rows])

    def read(self, level: int, start: int, stop: int) -> Any:
        if not 0 <= start <= stop <= self.length(level):
            raise IndexError((start, stop))
        return self.arrays[level][start:stop].copy()

    def save(self) -> None:
        if self.keeps_files and self.spec.directory is not None:
            for level, rows in enumerate(self.arrays):
                np.save(self.spec.directory / f"{level}.npy", rows)

    def flush(self) -> None:
        self.save()

    def close(self) -> None:
        self.save()


class FileTree(ArrayTree):
    keeps_files = True


class LendingTree(FileTree):
    """A healthy tree that can be opened read-only beside a writer."""

    def __init__(self, options: Options, spec: TreeSpec) -> None:
        if spec.read_only and (spec.directory is None or not (spec.directory / "0.npy").exists()):
            raise MccoreError("no tree there")
        super().__init__(options, spec)

    def load(self, directory: Path) -> None:
        if self.spec.read_only and not self.arrays:
            self.arrays = [np.load(file) for file in sorted(directory.glob("*.npy"))]
        super().load(directory)

    @property
    def levels(self) -> tuple[LevelSpec, ...]:
        return tuple(self.type_of(rows) for rows in self.arrays)

    def append(self, level: int, rows: Any) -> None:
        if self.spec.read_only:
            raise MccoreError("read only")
        super().append(level, rows)

    def save(self) -> None:
        if not self.spec.read_only:
            super().save()

    def refresh(self) -> bool:
        before = self.length(0)
        assert self.spec.directory is not None
        self.load(self.spec.directory)
        return self.length(0) > before


class ZooTree(TreeBackendSuite):
    tree: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.tree, summary="a tree of the zoo")


class TestHealthyTree(ZooTree):
    tree = ArrayTree


class TestHealthyFileTree(ZooTree):
    tree = FileTree
    persistent = True


class TestHealthyLendingTree(ZooTree):
    tree = LendingTree
    persistent = True
    shared = True


class TestForgetful(ZooTree):
    """Keeps only the newest rows."""

    caught_by = "test_any_chunking_equals_appending_at_once"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            super().append(level, rows)
            self.arrays[level][: -len(rows) or None] = 0


class TestShortMemory(ZooTree):
    """Stops at a hundred thousand rows."""

    caught_by = "test_holds_a_large_history"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            super().append(level, rows)
            self.arrays[level] = self.arrays[level][:100_000]


class TestOffByOneRead(ZooTree):
    """Reads one row too early, except from the start."""

    caught_by = "test_any_range_can_be_read"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            rows = super().read(level, start, stop)
            return rows if start == 0 else super().read(level, start - 1, stop - 1)


class TestAliasing(ZooTree):
    """Hands out its own storage to write to."""

    caught_by = "test_what_was_read_cannot_change_the_tree"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            super().read(level, start, stop)
            return self.arrays[level][start:stop]


class TestBorrowing(ZooTree):
    """Keeps the caller's array instead of a copy."""

    caught_by = "test_keeps_its_own_copy"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            self.check(level, rows)
            self.arrays[level] = rows if not self.length(level) else np.concatenate([self.at(level), rows])


class TestRecycling(ZooTree):
    """Clears the old storage when it moves to a larger one."""

    caught_by = "test_what_was_read_stays_as_it_was"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            old = self.at(level)
            super().append(level, rows)
            old[...] = 0

        def read(self, level: int, start: int, stop: int) -> Any:
            super().read(level, start, stop)
            view = self.arrays[level][start:stop]
            view.flags.writeable = False
            return view


class TestObliging(ZooTree):
    """Converts rows of another dtype."""

    caught_by = "test_wrong_rows_are_refused_and_add_nothing"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            if rows.ndim and rows.shape[1:] == self.at(level).shape[1:]:
                rows = rows.astype(self.at(level).dtype)
            super().append(level, rows)


class TestHasty(ZooTree):
    """Makes room before it looks at the rows."""

    caught_by = "test_wrong_rows_are_refused_and_add_nothing"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            there = self.at(level)
            self.arrays[level] = np.concatenate([there, np.zeros((1, *there.shape[1:]), dtype=there.dtype)])
            self.check(level, rows)
            self.arrays[level] = np.concatenate([there, rows])


class TestSlicing(ZooTree):
    """Reads with the leniency of a Python slice."""

    caught_by = "test_reading_outside_the_level_is_an_error"

    class tree(ArrayTree):
        def read(self, level: int, start: int, stop: int) -> Any:
            return self.at(level)[start:stop].copy()


class TestCountingFromTheEnd(ZooTree):
    """Takes -1 for the last level."""

    caught_by = "test_a_level_that_does_not_exist_is_an_error"

    class tree(ArrayTree):
        def at(self, level: int) -> Any:
            return self.arrays[level]


class TestOneForAll(ZooTree):
    """Counts every level's rows together."""

    caught_by = "test_levels_are_independent"

    class tree(ArrayTree):
        def length(self, level: int) -> int:
            return max(len(rows) for rows in self.arrays)


class TestGlobal(ZooTree):
    """Shares its storage with every other tree."""

    caught_by = "test_trees_are_independent"

    class tree(ArrayTree):
        shared: ClassVar[dict[int, Any]] = {}

        def __init__(self, options: Options, spec: TreeSpec) -> None:
            super().__init__(options, spec)
            self.arrays = self.shared.setdefault(len(self.arrays), self.arrays)


class TestContiguousOnly(ZooTree):
    """Copies the memory of an array without regard to its strides."""

    caught_by = "test_takes_rows_of_any_memory_layout"

    class tree(ArrayTree):
        def append(self, level: int, rows: Any) -> None:
            if rows.base is not None and not rows.flags.c_contiguous:
                rows = np.ascontiguousarray(rows.base.reshape(-1)[: rows.size].reshape(rows.shape))
            super().append(level, rows)


class TestClosesOnce(ZooTree):
    """Fails at the second close."""

    caught_by = "test_closing_twice_is_harmless"

    class tree(ArrayTree):
        def close(self) -> None:
            del self.spec


class TestLitterer(ZooTree):
    """Writes files and doesn't say so."""

    caught_by = "test_memory_only_leaves_the_directory_alone"
    tree = FileTree


class TestFlushless(ZooTree):
    """Saves only when it is closed."""

    caught_by = "test_flushed_rows_survive_the_end_of_the_process"
    persistent = True

    class tree(FileTree):
        def flush(self) -> None:
            pass


class TestCloseless(ZooTree):
    """Saves only when it is flushed."""

    caught_by = "test_reopening_shows_every_row"
    persistent = True

    class tree(FileTree):
        def close(self) -> None:
            pass


class TestTrusting(ZooTree):
    """Takes whatever rows are in the directory for its own."""

    caught_by = "test_reopening_with_another_spec_is_refused"
    persistent = True

    class tree(FileTree):
        def load(self, directory: Path) -> None:
            self.arrays = [np.load(file) for file in sorted(directory.glob("*.npy"))] or self.arrays


class TestNeedsItsDirectory(ZooTree):
    """Expects somebody else to make its directory."""

    caught_by = "test_reopening_shows_every_row"
    persistent = True

    class tree(FileTree):
        def __init__(self, options: Options, spec: TreeSpec) -> None:
            assert spec.directory is not None
            (spec.directory / "mark").touch()
            super().__init__(options, spec)


class TestStale(ZooTree):
    """Never looks again."""

    caught_by = "test_readers_show_what_was_flushed"
    persistent = True
    shared = True

    class tree(LendingTree):
        def refresh(self) -> bool:
            return False


class TestGenerous(ZooTree):
    """Takes rows from readers."""

    caught_by = "test_a_reader_takes_no_rows_and_keeps_no_writer_out"
    persistent = True
    shared = True

    class tree(LendingTree):
        def append(self, level: int, rows: Any) -> None:
            FileTree.append(self, level, rows)


class TestMakesWhatItReads(ZooTree):
    """Makes an empty tree for a reader."""

    caught_by = "test_reading_where_there_is_no_tree_is_an_error"
    persistent = True
    shared = True

    class tree(LendingTree):
        def __init__(self, options: Options, spec: TreeSpec) -> None:
            FileTree.__init__(self, options, spec)


# --- allocators: the healthy ones are the built-in ones, under the same suite in their own tests ----------------------


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


# --- telemetry --------------------------------------------------------------------------------------------------------


class LinesTelemetry:
    """A healthy provider: one file of lines per rank."""

    def __init__(self, options: Options, spec: TelemetrySpec) -> None:
        self.path = spec.directory / f"sent-{spec.rank}.jsonl"
        self.lines: list[str] = []

    def record(self, event: Event) -> None:
        self.lines.append(event.to_json())

    def flush(self) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines.clear()

    def close(self) -> None:
        self.flush()


class ZooTelemetry(TelemetryProviderSuite):
    provider: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.provider, summary="a provider of the zoo")


class TestHealthyTelemetry(ZooTelemetry):
    provider = LinesTelemetry


class TestFiniteOnly(ZooTelemetry):
    """Chokes on a metric that isn't finite."""

    caught_by = "test_takes_every_type_of_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.lines.append(json.dumps(dict(event.metrics), allow_nan=False))


class TestBareEventsOnly(ZooTelemetry):
    """Has no place for an event without a step."""

    caught_by = "test_takes_every_type_of_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.lines.append(f"{event.step:d}")


class TestOneFlush(ZooTelemetry):
    """Can be flushed once."""

    caught_by = "test_takes_events_between_flushes"

    class provider(LinesTelemetry):
        def flush(self) -> None:
            super().flush()
            del self.lines


class TestNeedsAnEvent(ZooTelemetry):
    """Opens its connection at the first event and closes one that isn't there."""

    caught_by = "test_closes_without_an_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.connection = object()

        def flush(self) -> None:
            pass

        def close(self) -> None:
            del self.connection


class TestNeedsAFlush(ZooTelemetry):
    """Can't be closed with events in its buffer."""

    caught_by = "test_closes_with_events_not_flushed"

    class provider(LinesTelemetry):
        def close(self) -> None:
            assert not self.lines


class TestEditsEvents(ZooTelemetry):
    """Takes the data out of the event, which every other provider is given too."""

    caught_by = "test_leaves_events_as_they_are"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            event.data.clear()  # type: ignore[attr-defined]


class TestBoundToItsThread(ZooTelemetry):
    """Holds a connection that only the thread that made it may use."""

    caught_by = "test_is_used_from_a_background_thread"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.database = sqlite3.connect(":memory:")

        def record(self, event: Event) -> None:
            self.database.execute("select 1")


class TestOneRank(ZooTelemetry):
    """Gives every rank the same file, for itself alone."""

    caught_by = "test_several_ranks_can_speak"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            open(spec.directory / "sent.jsonl", "x").close()


class TestStaysAlive(ZooTelemetry):
    """Leaves a thread running that a process would wait for."""

    caught_by = "test_never_keeps_the_process_alive"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.done = threading.Event()
            self.thread = threading.Thread(target=self.done.wait, args=(2,))  # a real one wouldn't end
            self.thread.start()

        def close(self) -> None:
            super().close()
            self.done.set()
            self.thread.join()


class TestTalkative(ZooTelemetry):
    """Prints what it sends."""

    caught_by = "test_is_silent"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            print(event.type)


class TestNoFlush(ZooTelemetry):
    """Lacks a method."""

    caught_by = "test_is_a_telemetry_provider"

    class provider:
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            pass

        def record(self, event: Event) -> None:
            pass

        def close(self) -> None:
            pass


class TestLongGoodbye(ZooTelemetry):
    """Waits for an answer at the end, however long it takes."""

    caught_by = "test_closes_within_its_patience"

    class provider(LinesTelemetry):
        def close(self) -> None:
            super().close()
            threading.Event().wait(5)  # a real one would wait longer


class TestGoodbyeOfACopy(ZooTelemetry):
    """Ends its connection when it is collected, in whatever process that is."""

    caught_by = "test_a_fork_does_no_harm"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.ours, self.theirs = socket.socketpair()

        def record(self, event: Event) -> None:
            self.ours.send(b"x")

        def __del__(self) -> None:
            self.ours.shutdown(socket.SHUT_RDWR)


class Wire:
    """Where providers of the zoo send to. One for all: tests don't run side by side here."""

    down = False

    @classmethod
    def send(cls, lines: list[str]) -> None:
        if cls.down:
            raise ConnectionRefusedError("nobody there")
        lines.clear()


class WireTelemetry(LinesTelemetry):
    """A healthy provider that sends what it has buffered, and keeps it while that fails."""

    def flush(self) -> None:
        Wire.send(self.lines)

    def close(self) -> None:
        count = len(self.lines)
        try:
            self.flush()
        except ConnectionError as error:
            raise EventsLost(count, str(error)) from error


class ZooSender(ZooTelemetry):
    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        Wire.down = True
        try:
            yield
        finally:
            Wire.down = False


class TestHealthySender(ZooSender):
    provider = WireTelemetry


class TestSilentOutage(ZooSender):
    """Keeps an outage to itself."""

    caught_by = "test_an_outage_is_told_and_outlived"

    class provider(WireTelemetry):
        def flush(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().flush()


class TestStubborn(ZooSender):
    """Tries again and again at the end."""

    caught_by = "test_an_outage_at_the_end_costs_no_more_than_its_patience"

    class provider(WireTelemetry):
        def close(self) -> None:
            end = time.monotonic() + 5  # a real one would go on
            while Wire.down and time.monotonic() < end:
                time.sleep(0.1)
            super().close()


class TestCountsTwice(ZooSender):
    """Counts an event as lost when it can't be sent, and once more when it is thrown away."""

    caught_by = "test_events_lost_in_an_outage_are_no_more_than_were_taken"

    class provider(WireTelemetry):
        def flush(self) -> None:
            count = len(self.lines)
            try:
                super().flush()
            except ConnectionError as error:
                raise EventsLost(count, str(error)) from error


# --- panels -----------------------------------------------------------------------------------------------------------


class CountPanel:
    """A healthy panel: how many alerts there are, and a curve."""

    title = "alerts"
    place = "plot"
    reads: Any = ("loss",)

    def __init__(self, options: Options, spec: PanelSpec) -> None:
        self.lines = 3

    def draw(self, view: Any, width: int, height: int) -> Any:
        head = [Span(f"{len(view.events('alert'))} alerts", "strong")]
        return [head, *view.plot("loss", width, max(1, height - 1))][:height]


class ZooPanel(PanelSuite):
    product: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.product, summary="a panel of the zoo")


class TestHealthyPanel(ZooPanel):
    product = CountPanel


class TestSomewhereElse(ZooPanel):
    """Wants a place that there isn't."""

    caught_by = "test_is_a_panel"

    class product(CountPanel):
        place = "everywhere"


class TestNeedsAValue(ZooPanel):
    """Has nothing to say of a run without a step."""

    caught_by = "test_draws_spans_in_any_room_and_state"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span(f"{view.value('loss'):.3f}")]]


class TestPlainText(ZooPanel):
    """Returns lines of text, whose characters aren't spans."""

    caught_by = "test_draws_spans_in_any_room_and_state"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return ["3 alerts"]


class TestTooMany(ZooPanel):
    """Draws what it likes, whatever room there is."""

    caught_by = "test_fits_the_room_it_is_given"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span("line")]] * 100


class TestFancy(ZooPanel):
    """Draws boxes that a terminal may not have."""

    caught_by = "test_draws_plain_characters_where_nothing_else_can_be_shown"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span("█" * width)]]


class TestTidiesUp(ZooPanel):
    """Takes the alerts that it has shown out of the state that all draw from."""

    caught_by = "test_changes_nothing_of_what_it_is_shown"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            view.state.alerts.clear()
            return []


# --- recipes ----------------------------------------------------------------------------------------------------------

MIXTURE = ChatTrainConfig(mixture={"stdlib_qa": 10})
CONFIG = RunConfig(model=ModelConfig(depth=2), mid=MIXTURE, sft=MIXTURE)
_turn = itertools.count(2)


class TestHealthyRecipe(RecipeSuite):
    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a recipe of the zoo", {"small": {"model.depth": 1}, "h100": {"hardware.nproc": 8}})


class TestUnknownSetting(RecipeSuite):
    caught_by = "test_every_profile_resolves"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a profile with a typing error", {"small": {"model.dept": 1}})


class TestInvalidValue(RecipeSuite):
    caught_by = "test_every_profile_resolves"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a profile with a wrong value", {"small": {"model.depth": "shallow"}})


class TestUnknownPluginOption(RecipeSuite):
    caught_by = "test_resolves_with_megacontext"

    def recipe(self) -> Recipe:
        greedy = Choice(name="greedy", options={"recent_token": 3})
        return Recipe(CONFIG.model_copy(update={"megacontext": MegaContextConfig(allocator=greedy)}), "a wrong option")


class TestUnknownPlugin(RecipeSuite):
    caught_by = "test_resolves_to_a_complete_run"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"telemetry": (Choice(name="no-such-provider"),)}), "a missing plugin")


class TestMoody(RecipeSuite):
    caught_by = "test_is_the_same_every_time"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"seed": next(_turn)}), "another one at each look")


class TestUnsaidRecipe(RecipeSuite):
    caught_by = "test_has_a_summary"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG)


class TestNoRecipe(RecipeSuite):
    caught_by = "test_is_a_recipe"

    def recipe(self) -> Any:
        return CONFIG


class TestHalfARecipe(RecipeSuite):
    """Values that the schema was never asked about."""

    caught_by = "test_config_survives_a_file"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"seed": -1}), "unvalidated values")
