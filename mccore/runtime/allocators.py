"""The allocator that a configuration names, as an object. Allocators are built here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from mccore import plugins
from mccore.api import Allocator, AllocatorOptions, AllocatorSpec, Options, Reads
from mccore.config import Choice, RunConfig
from mccore.megacontext.focus.abilities import DeclaredAllocator

Build = Callable[[AllocatorSpec], DeclaredAllocator]


def allocator_builder(choice: Choice, recent_tokens: int | None = None) -> Build:
    """What builds the allocator of a choice; with `recent_tokens`, its own are at most so many. Raises PluginError and
    ConfigError."""
    extension = plugins.load("allocator", choice.name)
    options = _limited(plugins.read_options("allocator", choice, extension), recent_tokens)

    def build(spec: AllocatorSpec) -> DeclaredAllocator:
        product: Allocator = extension.build(options, spec)
        return DeclaredAllocator(product, _attributes(product) if extension.reads is None else extension.reads)

    return build


def build_allocator(config: RunConfig, recent_tokens: int | None = None) -> DeclaredAllocator:
    """The allocator of a run; with `recent_tokens`, its own are at most so many."""
    megacontext = config.megacontext
    spec = AllocatorSpec(block_size=megacontext.block_size, max_lod=megacontext.max_lod, seed=config.seed)
    return allocator_builder(megacontext.allocator, recent_tokens)(spec)


def _limited(options: Options, recent_tokens: int | None) -> Options:
    """Options with at most so many recent tokens, where there is such an option."""
    if recent_tokens is None or "recent_tokens" not in type(options).model_fields:
        return options
    # Allocators of before `AllocatorOptions` declare the option themselves.
    own = options.recent_tokens if isinstance(options, AllocatorOptions) else options.model_dump()["recent_tokens"]
    return options.model_copy(update={"recent_tokens": min(own, recent_tokens)})


def _attributes(product: Allocator) -> tuple[Reads, ...]:
    """What an allocator reads whose plugin doesn't declare it: by its attributes, as before `Extension.reads`."""
    scores: tuple[Reads, ...] = ("scores",) if getattr(product, "reads_scores", True) else ()
    found: tuple[Reads, ...] = ("found",) if getattr(product, "reads_found", False) else ()
    return scores + found
