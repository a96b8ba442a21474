"""What sessions share: the networks, the settings and the allocator."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mccore.api import Allocator, AllocatorSpec
from mccore.config import MegaContextConfig
from mccore.megacontext.focus.state import FocusError, Limits
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.mixing import LookupMixer
from mccore.megacontext.search.ngram import HistorySearch, NgramSearch
from mccore.megacontext.sessions.options import SessionOptions
from mccore.megacontext.tree.tree import BlockEncoder
from mccore.model.gpt import GPT

# A tree has levels until so long a history is so few nodes, whatever the Working Context is.
HISTORY, COARSEST = 2**27, 64

MOST_LEVELS = 8

LONGER = (
    64  # a Working Context that can't show a history so many times as long is refused at once, not in the middle of it
)


class SessionModel:
    """A model with MegaContext as many sessions share it.

    Args:
        gpt, nets: the trained networks, in evaluation mode.
        allocator: builds an allocator for a block size, a coarsest level and a seed.
        options: how sessions focus.
        identity: what tells this model from others; a saved session opens with the same only.
        stored: dtype of gists in the tree.

    Raises FocusError where the budget leaves no room for a refocus.
    """

    def __init__(
        self,
        gpt: GPT,
        nets: MegaContextNets,
        allocator: Callable[[AllocatorSpec], Allocator],
        options: SessionOptions,
        *,
        identity: str = "",
        stored: torch.dtype = torch.float32,
    ) -> None:
        self.gpt, self.nets, self.options, self.identity = gpt, nets, options, identity
        self._allocator = allocator
        self.mixer: LookupMixer | None = None
        self.block_size = nets.config.block_size
        self.recent_tokens = self.allocator(nets.config.max_lod, 0).recent_tokens
        self.levels = tree_levels(self.block_size, nets.config.max_lod)
        check_room(options, nets.config, self.recent_tokens)
        self.encoder = BlockEncoder(gpt.embed, nets.gistnet, max_lod=self.levels, stored=stored, compute=nets.dtype)

    def look_up_with(self, mixer: LookupMixer | None) -> None:
        """Let sessions look up, where they are to: with what a lookup may say of this model, or None where nobody learned it."""
        self.mixer = mixer if self.options.search.lookup else None

    def allocator(self, max_lod: int, seed: int) -> Allocator:
        """An allocator for one refocus: whatever it draws depends on the seed alone."""
        return self._allocator(AllocatorSpec(self.block_size, max_lod, seed))

    def new_search(self, index: BigramIndex | None = None) -> HistorySearch | None:
        """A search of one history, where sessions have one; `index` is that of the history, where there is one already."""
        search = self.options.search
        if search.kind == "none":
            return None
        blocks = -(-search.span_tokens // self.block_size)
        return NgramSearch(blocks * self.block_size, search.half_life, index=index)

    def levels_for(self, tokens: int) -> int:
        """The coarsest level that a history of so many tokens is shown at: the finest with which the shortest cut takes three
        quarters of the Working Context at most, not finer than the coarsest in training."""
        most = 3 * (self.options.wc_length - self.options.refocus_interval) // 4
        for level in range(min(self.nets.config.max_lod, self.levels), self.levels):
            if tokens // self.block_size**level + level * (self.block_size - 1) <= most - self.recent_tokens:
                return level
        return self.levels

    def limits(self, tokens: int) -> Limits:
        """The limits of a history of so many tokens."""
        options = self.options
        return Limits(options.wc_length, self.block_size, self.levels_for(tokens), options.refocus_interval)


def check_room(options: SessionOptions, networks: MegaContextConfig, recent_tokens: int) -> None:
    """Raise FocusError where the Working Context leaves no room for a refocus; recent_tokens: those of the allocator."""
    size, max_lod = networks.block_size, networks.max_lod
    levels, tokens = tree_levels(size, max_lod), LONGER * options.wc_length
    # Entries that the shortest cut of so many tokens has at most: of every level the siblings that fill no parent.
    shortest = recent_tokens + min(
        (level + 1) * (size - 1) + tokens // size**level for level in range(min(max_lod, levels), levels + 1)
    )
    if options.refocus_interval < 1 or options.wc_length < shortest + options.refocus_interval:
        raise FocusError(
            f"a Working Context of {options.wc_length} entries is too small for a history {LONGER} times as long: "
            f"{recent_tokens} recent tokens, {options.refocus_interval} until the next refocus and gists of "
            f"{size} take up to {shortest + options.refocus_interval}",
            hint="raise megacontext.wc_length, or lower the allocator's recent_tokens or megacontext.refocus_interval",
        )


def tree_levels(block_size: int, least: int) -> int:
    """Levels of gists of a tree, from `least` to MOST_LEVELS."""
    level = least
    while level < MOST_LEVELS and HISTORY // block_size**level > COARSEST:
        level += 1
    return level
