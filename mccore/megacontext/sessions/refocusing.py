"""What a session does when it refocuses: search its history, score the entries, let the allocator edit them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from mccore.api import Found
from mccore.megacontext.focus.controller import lens_score, plan_and_apply, prefill_focus
from mccore.megacontext.focus.measures import Refocus, measure
from mccore.megacontext.focus.state import FocusState, Nodes, check_fits, start_focus
from mccore.megacontext.search.ngram import HistorySearch
from mccore.megacontext.sessions.history import APPEND, History
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.reading import grown
from mccore.megacontext.tree.cut import Cut

# A prompt of more than so many Working Contexts is focused anew, from coarse to fine. A shorter one is scored by LensNet
# together with the focus that there was.
OVERHANG = 2


class Refocuser:
    """Chooses the focus of one history. seed: of allocators that draw; search: finds what the newest tokens are about."""

    def __init__(self, model: SessionModel, history: History, seed: int, search: HistorySearch | None) -> None:
        self.model, self.history, self.seed, self.search = model, history, seed, search

    def __call__(self, focus: FocusState, count: int, number: int) -> tuple[FocusState, Refocus]:
        """The focus after refocus `number`, with `count` unread tokens and room for those until the next one.

        Raises FocusError for scores that aren't numbers or a history that can't fit, IllegalEdit for an allocator's mistake.
        """
        began = time.perf_counter()
        self.history.settle()
        model, tokens = self.model, self.history.tokens
        limits = model.limits(tokens)
        check_fits(tokens, limits, model.recent_tokens)
        allocator = model.allocator(limits.max_lod, mix(self.seed, number))
        score = lens_score(model.nets.lensnet, self._embeddings, allocator, model.nets.dtype)
        found = self._find(tokens)
        before = grown(focus, count)
        in_use = len(before.cut)
        if count > OVERHANG * limits.budget:
            in_use = len(focus.cut)  # of a long prompt none was in the Working Context when the refocus began
            rounds = model.options.rounds
            start = [start_focus(tokens, limits, model.recent_tokens)]
            (after,) = prefill_focus(start, score, allocator, limits, rounds=rounds, found=found)
            edits = _NO_EDITS
        else:
            (after,), (edits,) = plan_and_apply([before], score([before.cut]), allocator, limits, found)
        measures = measure(before, after, edits, model.recent_tokens, limits)
        measures = replace(measures, residency=in_use / limits.budget)
        return after, Refocus([], [edits], [measures], time.perf_counter() - began)

    def _embeddings(self, cuts: Sequence[Cut]) -> list[Tensor]:
        return [self.history.tree.entries(cut).embeddings for cut in cuts]

    def _find(self, tokens: int) -> Found | None:
        """What the newest of the `tokens` tokens in the tree are about: as many spans as the Working Context could show, and as
        many again, since those in its tail are shown in any case."""
        search, options, tree = self.search, self.model.options, self.history.tree
        if search is None:
            return None
        while search.tokens < tokens:  # the first time, all of a history that was loaded
            search.append(tree.ids(search.tokens, min(tokens, search.tokens + APPEND)))
        query = tree.ids(max(0, tokens - options.search.query_tokens), tokens)
        start, stop, score = search.find(
            query, tokens - self.model.recent_tokens, 2 * options.wc_length // search.span + 1
        )
        return Found(np.zeros(len(start), dtype=np.int64), start, stop, score)


_NO_EDITS: tuple[Nodes, Nodes] = (np.empty((0, 2), dtype=np.int64), np.empty((0, 2), dtype=np.int64))


def mix(seed: int, count: int) -> int:
    """One seed of two numbers."""
    return (seed * 0x9E3779B97F4A7C15 + count) % 2**63
