"""Sessions of an opened model: its networks, allocator and trees put together, and where conversations with a name live."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mccore import plugins
from mccore.api import AllocatorSpec, TreeSpec
from mccore.config import Choice, MegaContextConfig
from mccore.errors import UsageError
from mccore.host import paths
from mccore.megacontext.focus.abilities import reads
from mccore.megacontext.sessions.options import SessionOptions
from mccore.resolve.draft import FINDER
from mccore.runtime.allocators import Build, allocator_builder
from mccore.units import size

if TYPE_CHECKING:
    from mccore.api import TreeBackend
    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.megacontext.search.mixing import LookupMixer
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.session import Session
    from mccore.model.gpt import GPT

_STORED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
MEMORY, FILES = "ram", "disk"  # what stands in where the configured tree isn't for memory, or not for files


class TreeBuilder:
    """Builds the trees of sessions: by the plugin that was configured, or by its fellow where that one can't."""

    def __init__(self, choice: Choice) -> None:
        self.memory = Choice(name=MEMORY) if choice.name == FILES else choice
        self.files = Choice(name=FILES) if choice.name == MEMORY else choice
        self._builders: dict[bool, Callable[[TreeSpec], TreeBackend]] = {}

    def __call__(self, spec: TreeSpec) -> TreeBackend:
        in_files = spec.directory is not None
        if in_files not in self._builders:
            self._builders[in_files] = plugins.builder("tree", self.files if in_files else self.memory)
        return self._builders[in_files](spec)


@dataclass(frozen=True)
class Sessions:
    """The sessions of one model: what they share, and what builds their trees."""

    model: SessionModel
    trees: TreeBuilder

    def new(self, tree: Path | None = None) -> Session:
        """A session whose tree is in that directory, with what it holds already, or in memory."""
        from mccore.megacontext.sessions.session import Session
        from mccore.megacontext.tree.tree import Tree

        return Session(self.model, Tree(self.trees(self.model.encoder.spec(tree)), self.model.encoder))

    @property
    def in_files(self) -> bool:
        """Whether the trees of these sessions are to be in files, also where that isn't asked for."""
        return self.model.options.tree.name != MEMORY

    @property
    def missing_lookup(self) -> str | None:
        """What to tell a user whose sessions are to look up what followed before, and can't; None where all is well."""
        if self.model.mixer is not None or not self.model.options.search.lookup:
            return None
        return (
            "no lookup: nothing was fitted for this model, as for all that were trained before there was one; "
            "`mccore eval fit-lookup RUN` does it"
        )

    @property
    def missing_search(self) -> str | None:
        """What to tell a user whose allocator waits for a search and has none; None where all is well."""
        if self.model.options.search.kind != "none" or not reads(
            self.model.allocator(self.model.nets.config.max_lod, 0), "found"
        ):
            return None
        return (
            "this allocator shows what a search finds, and nothing is searched: it makes a window behind a coarse past; "
            "--search ngram searches"
        )


def session_options(config: MegaContextConfig, **flags: Any) -> SessionOptions:
    """The options of a model with a user's flags; see `SessionOptions.of`.

    Raises ConfigError for a value that isn't allowed, UsageError for a search that was asked for with an allocator that
    doesn't show what is found.
    """
    options = SessionOptions.of(config, **flags)
    if flags.get("search") not in (None, "none"):
        allocator = allocator_builder(options.allocator)(AllocatorSpec(config.block_size, config.max_lod, 0))
        if not reads(allocator, "found"):
            raise UsageError(
                f"the allocator {options.allocator.name!r} doesn't show what a search finds",
                hint=f"choose one that does: --allocator {FINDER}",
            )
    return options


def build_sessions(
    gpt: GPT, nets: MegaContextNets, options: SessionOptions, identity: str, mixer: LookupMixer | None = None
) -> Sessions:
    """Sessions of these networks; identity tells them from others, mixer is what a lookup may say where that was fitted. Raises
    FocusError for a Working Context that is too small, UsageError for one that the machine can't hold."""
    import torch

    from mccore.megacontext.sessions.model import SessionModel

    nets = copy.copy(nets)  # the same networks, in the places that these sessions have
    nets.config = nets.config.model_copy(update={"token_positions": options.token_positions})
    allocator = _allocator(options)
    stored = getattr(torch, _STORED[options.gist_dtype])
    _check_memory(gpt, options)
    model = SessionModel(gpt, nets, allocator, options, identity=identity, stored=stored)
    model.look_up_with(mixer)
    return Sessions(model, TreeBuilder(options.tree))


def check_sessions(config: MegaContextConfig) -> None:
    """Raise FocusError for a configuration whose sessions could never refocus, before a model is trained for them."""
    from mccore.megacontext.sessions.model import check_room

    options = SessionOptions.of(config)
    allocator = _allocator(options)(AllocatorSpec(config.block_size, config.max_lod, 0))
    check_room(options, config, allocator.recent_tokens)


def _allocator(options: SessionOptions) -> Build:
    # An allocator's recent tokens are made for large Working Contexts: in a small one they would leave nothing to allocate.
    return allocator_builder(options.allocator, options.wc_length // 4)


def _check_memory(gpt: GPT, options: SessionOptions) -> None:
    """Raise UsageError for a Working Context whose keys and values the machine can't hold, before they are allocated."""
    from mccore.train.probe import free_memory

    config, free = gpt.config, free_memory(gpt.device, 1)
    entry = 2 * config.depth * config.n_kv_head * config.head_dim * gpt.compute_dtype.itemsize
    if options.wc_length * entry > free:
        raise UsageError(
            f"a Working Context of {options.wc_length:,} entries takes {size(options.wc_length * entry)}, and {size(free)} "
            "are free",
            hint=f"choose a smaller wc_length: up to {int(free / entry):,} fit",
        )


def session_directory(name: str) -> Path:
    """Where the session of a name lives. Raises UsageError for what can't be a name."""
    fits = 0 < len(os.fsencode(name)) <= 100 and not name.startswith(".")
    if not fits or not all(letter.isalnum() or letter in "-_." for letter in name):
        shown = name if len(name) <= 100 else f"{name[:40]}..."
        raise UsageError(
            f"{shown!r} can't be the name of a session",
            hint="use up to 100 letters, digits, `-`, `_` and `.`, such as `thesis-2`",
        )
    return paths.sessions_dir() / name
