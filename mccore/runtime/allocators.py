"""The allocator that a configuration names, as an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mccore import plugins
from mccore.api import Allocator, AllocatorSpec

if TYPE_CHECKING:
    from mccore.runtime.runtime import Runtime


def build_allocator(runtime: Runtime, recent_tokens: int | None = None) -> Allocator:
    """The allocator of the run; with `recent_tokens`, its own are at most so many."""
    config = runtime.config.megacontext
    extension = plugins.load("allocator", config.allocator.name)
    options = extension.options.model_validate(config.allocator.options)
    own = getattr(options, "recent_tokens", None)
    if recent_tokens is not None and own is not None:
        options = options.model_copy(update={"recent_tokens": min(own, recent_tokens)})
    spec = AllocatorSpec(block_size=config.block_size, max_lod=config.max_lod, seed=runtime.config.seed)
    return extension.build(options, spec)
