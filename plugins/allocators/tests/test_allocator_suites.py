from mccore_allocators import greedy, spans, stochastic_greedy
from mccore_allocators.greedy import GreedyOptions
from mccore_allocators.spans import SpansOptions
from mccore_allocators.stochastic_greedy import StochasticGreedyOptions

from mccore.api import Allocator, Extension, Options
from mccore.testing import AllocatorSuite


class TestGreedy(AllocatorSuite):
    def extension(self) -> Extension[Allocator]:
        return greedy.mccore_allocator()


class TestEagerGreedy(TestGreedy):
    """Every brake off: the most edits a plan can hold."""

    def options(self) -> Options:
        return GreedyOptions(
            recent_tokens=0,
            expand_threshold=-1,
            collapse_threshold=-1,
            hysteresis=0,
            min_residency=0,
            max_replacements=1000,
            iterations=4,
        )


class TestStochasticGreedy(AllocatorSuite):
    def extension(self) -> Extension[Allocator]:
        return stochastic_greedy.mccore_allocator()


class TestEagerStochasticGreedy(TestStochasticGreedy):
    def options(self) -> Options:
        return StochasticGreedyOptions(
            recent_tokens=17,
            soft_max_length=60,
            expand_threshold=-1,
            collapse_threshold=-1,
            hysteresis=0,
            min_residency=1,
            max_replacements=30,
            iterations=3,
            sample_top_k=9,
            sample_temperature=0.3,
        )


class TestSpans(AllocatorSuite):
    def extension(self) -> Extension[Allocator]:
        return spans.mccore_allocator()


class TestManySpans(TestSpans):
    def options(self) -> Options:
        return SpansOptions(spans=4, hysteresis=0, recent_tokens=3)
