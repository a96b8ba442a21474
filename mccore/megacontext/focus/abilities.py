"""What an allocator goes by, beside it."""

from __future__ import annotations

from collections.abc import Collection

from mccore.api import Allocator, Budget, Edits, FocusView, Reads


class DeclaredAllocator:
    """An allocator with what its plugin declared that it reads. Plans are the allocator's own."""

    def __init__(self, allocator: Allocator, reads: Collection[Reads]) -> None:
        self.allocator = allocator
        self.reads = frozenset(reads)
        self.recent_tokens = allocator.recent_tokens

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        return self.allocator.plan(view, budget)


def reads(allocator: Allocator, what: Reads) -> bool:
    """Whether an allocator goes by this. One that nothing is known of reads scores."""
    declared = allocator.reads if isinstance(allocator, DeclaredAllocator) else frozenset({"scores"})
    return what in declared
