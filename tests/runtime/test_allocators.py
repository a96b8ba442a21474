"""What is known of an allocator beside it: declared by its plugin, or by attributes as before."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from mccore import plugins
from mccore.api import AllocatorSpec, Budget, Edits, Extension, FocusView, Options, Reads
from mccore.config import Choice
from mccore.megacontext.focus.abilities import reads
from mccore.runtime import allocators
from mccore.runtime.allocators import allocator_builder

SPEC = AllocatorSpec(block_size=4, max_lod=2)


class OldOptions(Options):
    """The option as allocators declared it before `AllocatorOptions`."""

    recent_tokens: int = Field(64, description="newest tokens")


class Old:
    reads_scores = False
    reads_found = True

    def __init__(self, options: OldOptions, spec: AllocatorSpec) -> None:
        self.recent_tokens = options.recent_tokens

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        raise NotImplementedError


def built(monkeypatch: pytest.MonkeyPatch, declared: tuple[Reads, ...] | None, recent: int | None = None) -> Any:
    extension = Extension(build=Old, options=OldOptions, summary="old", reads=declared)
    monkeypatch.setattr(allocators.plugins, "load", lambda kind, name: extension)
    return allocator_builder(Choice(name="old"), recent)(SPEC)


def test_attributes_count_where_nothing_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    old = built(monkeypatch, None)
    assert (reads(old, "scores"), reads(old, "found")) == (False, True)


def test_what_is_declared_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = built(monkeypatch, ("scores",))
    assert (reads(declared, "scores"), reads(declared, "found")) == (True, False)


@pytest.mark.parametrize(("at_most", "kept"), [(None, 64), (100, 64), (16, 16)])
def test_recent_tokens_are_at_most_so_many(monkeypatch: pytest.MonkeyPatch, at_most: int | None, kept: int) -> None:
    assert built(monkeypatch, None, at_most).recent_tokens == kept


@pytest.mark.parametrize(
    ("name", "declared"), [("greedy", ("scores",)), ("stochastic_greedy", ("scores",)), ("spans", ("found",))]
)
def test_ours_declare_what_they_read(name: str, declared: tuple[Reads, ...]) -> None:
    assert plugins.load("allocator", name).reads == declared
    allocator = allocator_builder(Choice(name=name), 8)(SPEC)
    assert allocator.recent_tokens == 8
    assert {what for what in ("scores", "found") if reads(allocator, what)} == set(declared)
