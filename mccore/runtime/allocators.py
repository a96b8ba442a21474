"""The allocators that configurations name, as objects."""

from __future__ import annotations

from collections.abc import Callable

from mccore import plugins
from mccore.api import Allocator, AllocatorSpec
from mccore.config import Choice, RunConfig


def allocator_builder(choice: Choice, recent_tokens: int | None = None) -> Callable[[AllocatorSpec], Allocator]:
    """What builds the allocator of a choice; with `recent_tokens`, its own are at most so many. Raises ConfigError."""
    extension = plugins.load("allocator", choice.name)
    options = plugins.read_options("allocator", choice, extension)
    own = getattr(options, "recent_tokens", None)
    if recent_tokens is not None and own is not None:
        options = options.model_copy(update={"recent_tokens": min(own, recent_tokens)})

    def build(spec: AllocatorSpec) -> Allocator:
        return extension.build(options, spec)

    return build


def build_allocator(config: RunConfig, recent_tokens: int | None = None) -> Allocator:
    """The allocator of a run; with `recent_tokens`, its own are at most so many."""
    megacontext = config.megacontext
    spec = AllocatorSpec(block_size=megacontext.block_size, max_lod=megacontext.max_lod, seed=config.seed)
    return allocator_builder(megacontext.allocator, recent_tokens)(spec)
