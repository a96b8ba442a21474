"""A history without end and the model's view of it: tokens go in, the logits of the next one come out, at a cost that depends
on the Working Context alone.

A `Session` is one history: its tree, its focus, and the keys and values of its Working Context. `append` only remembers; `read`
brings what is unread before the model. Whenever the Working Context is full, `refocus_interval` tokens have passed, a token
came as a surprise, or someone asked for it, LensNet scores the entries and the allocator edits them. All that sessions
share is in a `SessionModel`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mccore.api import Found
from mccore.megacontext.focus.controller import plan_and_apply, prefill_focus, scores_for
from mccore.megacontext.focus.measures import Refocus, measure
from mccore.megacontext.focus.state import Focus, check_fits
from mccore.megacontext.search.ngram import HistorySearch
from mccore.megacontext.sessions.cache import WorkingContextCache, cut_part
from mccore.megacontext.sessions.model import SessionModel, grown
from mccore.megacontext.sessions.seen import Runs, finest, runs_of
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.tree import Tree, TreeError

APPEND = 2**16  # tokens that go into the tree at once: bounds the memory of a long prompt

KEPT_REFOCUSES = 256  # of which statistics are kept

MOST_BUFFERED = 512  # tokens that wait for the tree: GistNet is asked once per refocus, not once per block

KEPT_VIEWS = 64  # cuts that were seen until they are put together
# A prompt that is longer than so many Working Contexts is focused anew, from coarse to fine; a shorter one goes before LensNet
# together with the focus that there was.
OVERHANG = 2


class Session:
    """One history and the focus on it. Not shared between threads.

    tree: holds the history, which may have tokens already: they are unread. It belongs to the session from now on.
    seed: of an allocator that draws. search: what searches the history, where it isn't to be what the model's settings say.
    """

    def __init__(self, model: SessionModel, tree: Tree, *, seed: int = 0, search: HistorySearch | None = None) -> None:
        self.model, self.tree, self.seed = model, tree, seed
        self.working_context = WorkingContextCache(model.gpt, model.nets, model.settings.budget)
        self.covered = 0  # tokens that the focus covers, read or about to be
        self.logits: Tensor | None = None  # fp32 [V], after the last token read
        self.directory: Path | None = None  # where it lives, when it is saved
        self.refocuses = 0
        self.recent: deque[Refocus] = deque(maxlen=KEPT_REFOCUSES)
        self.since = 0  # tokens read since the last refocus
        self._focus = Focus(self.working_context.cut, np.zeros(0, dtype=np.int32))
        self._grown = 0  # tokens of the focus behind `_focus`: arrays that grow by one per token would cost too much
        self._has_gists = False
        self._buffer: list[int] = []  # tokens that aren't in the tree yet
        self._wanted = False  # a refocus was asked for
        self._seen: list[Runs] | None = None
        self.search = search or model.new_search()

    # --- the history --------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of the history, unread ones included (n)."""
        return self.tree.tokens + len(self._buffer)

    @property
    def unread(self) -> int:
        """Tokens that the model hasn't been shown."""
        return self.tokens - self.covered

    @property
    def focus(self) -> Focus:
        """The cut of what has been read, and how long its entries have been in it."""
        if self._grown:
            self._focus, self._grown = grown(self._focus, self._grown), 0
        return self._focus

    @property
    def entries(self) -> int:
        """Entries of the Working Context."""
        return len(self._focus.cut) + self._grown

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t], to the history; `read` shows them to the model. Raises TreeError for what isn't a list of ids that
        the model knows, and then adds none."""
        array = np.asarray(ids)
        known = self.model.gpt.config.vocab_size
        if (
            array.size and array.dtype.kind in "iu" and int(array.max()) >= known
        ):  # in the tree it would never get a gist
            raise TreeError(f"token ids of this model lie in [0, {known}), and one is {array.max()}")
        self._settle()
        for start in range(0, max(1, len(array) if array.ndim else 1), APPEND):
            self.tree.append(array[start : start + APPEND] if array.ndim else array)

    def append_token(self, token: int) -> None:
        """Add one token: `append` in a hurry. Raises TreeError for an id that the model doesn't know, and then adds none."""
        if not 0 <= token < self.model.gpt.config.vocab_size:
            raise TreeError(
                f"token ids of this model lie in [0, {self.model.gpt.config.vocab_size}), and one is {token}"
            )
        self._settle_blocks()
        self._buffer.append(token)

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens `[start, stop)` of the history. Raises IndexError outside it."""
        self._settle()
        return self.tree.ids(start, stop)

    def flush(self) -> None:
        """Make the history survive a crash, where its tree can."""
        self._settle()
        self.tree.flush()

    def close(self) -> None:
        """Flush and let go of the tree."""
        self._settle()
        self.tree.close()

    def _settle_blocks(self) -> None:
        """Don't let the tokens that aren't in the tree become many, where nothing refocuses."""
        if len(self._buffer) >= MOST_BUFFERED:
            self._settle()

    def _settle(self) -> None:
        if not self._buffer:
            return
        there = self.tree.tokens
        try:
            self.tree.append(self._buffer)
        finally:  # the tree may hold them even where making their gists failed
            del self._buffer[: self.tree.tokens - there]

    # --- reading ------------------------------------------------------------------------------------------------------

    def refocus_next(self) -> None:
        """Ask for a refocus before the next token is read: something has happened, a question was put, a turn ended."""
        self._wanted = True

    @torch.inference_mode()
    def read(self) -> Tensor:
        """Show the model what is unread, refocusing where that is due: logits of the next token, fp32 [V].

        Raises ValueError for an empty history, FocusError for scores that aren't numbers or a history that can't fit,
        IllegalEdit for an allocator's mistake; the focus is then what it was.
        """
        count = self.unread
        if not count and self.logits is not None and not (self._wanted and self._has_gists):
            return self.logits
        if not self.tokens:
            raise ValueError("there is nothing to read: the history is empty")
        policy = self.model.settings.kv_policy
        due = self.refocus_is_due(count, self._buffer[-1] if self._buffer else None)
        self.logits = None  # until this ends well
        if due:
            self._refocus(count)
            hidden = self.working_context.read(self.focus.cut, self.tree.entries, policy)
        elif count == 1 and self._buffer and self.covered and self._all_read():
            self._grow(1)
            newest = torch.tensor(self._buffer[-1:], device=self.model.gpt.device)
            hidden = self.working_context.read_tokens(newest, self.covered - 1)
        else:
            self._settle()
            self._grow(count)
            hidden = self.working_context.read(self.focus.cut, self.tree.entries, policy)
        return self.take_logits(self.model.gpt.logits(hidden)[0])

    def refocus_is_due(self, count: int, newest: int | None = None) -> bool:
        """Whether reading `count` more tokens, `newest` the only one, needs a refocus first. A history that fits as it is
        needs none."""
        settings = self.model.settings
        if self.entries + count > settings.budget:
            return True
        if not self._has_gists:
            self._wanted = False
            return False
        return self._wanted or self.since + count > settings.interval or (count == 1 and self._surprised(newest))

    def needs_more_than_a_pass(self, token: int) -> bool:
        """Whether `read_all_but(token)` has to read other entries than that token."""
        return self.unread > 0 or self.logits is None or self.refocus_is_due(1, token)

    @torch.inference_mode()
    def read_all_but(self, token: int) -> bool:
        """Do all of `append_token(token)` and `read` but the pass over that token, which `take_logits` ends: for a pass over many
        sessions. Returns whether what the context cache holds has changed."""
        self._settle_blocks()
        self._buffer.append(token)
        count = self.unread
        due = self.refocus_is_due(count, token)
        self.logits = None
        if due:
            self._refocus(count)
        else:
            only_this = count == 1 and self._all_read()
            self._grow(count)
            if only_this:
                return False
        self._settle()
        cut = self.focus.cut
        if len(cut) > 1:
            before = cut_part(cut, slice(0, -1))
            self.working_context.prepare(before, self.tree.entries, self.model.settings.kv_policy, later=1)
        return True

    def take_logits(self, logits: Tensor) -> Tensor:
        """Take the logits [V] after the newest token of the focus, which the context cache holds by now."""
        self.logits = logits
        return logits

    def _all_read(self) -> bool:
        """Whether the context cache holds all that the focus covers: after a read that failed it doesn't."""
        return self.working_context.entries == self.entries

    def _grow(self, count: int) -> None:
        self._grown += count
        self.covered += count
        self.since += count

    def restore(self, focus: Focus, *, since: int, refocuses: int) -> None:
        """Go on from a focus that was saved; nothing of it has been read yet."""
        self._set_focus(focus)
        self.since, self.refocuses, self.logits = since, refocuses, None

    def _set_focus(self, focus: Focus) -> None:
        self._focus, self._grown = focus, 0
        self.covered = focus.cut.tokens
        self._has_gists = bool(focus.cut.level.any())

    def _surprised(self, token: int | None) -> bool:
        """Whether the model had thought little of this token; not again within a quarter of the interval."""
        threshold = self.model.settings.surprise
        if threshold is None or token is None or self.logits is None or 4 * self.since < self.model.settings.interval:
            return False
        return float(self.logits.logsumexp(0) - self.logits[token]) > threshold

    def _refocus(self, count: int) -> None:
        """Bring `count` unread tokens into the focus and edit it so that `interval` more fit."""
        self._settle()
        model, began = self.model, time.perf_counter()
        tokens = self.tree.tokens
        limits = model.limits(tokens)
        check_fits(tokens, limits, model.recent_tokens)
        allocator = model.allocator(limits.max_lod, _mix(self.seed, self.refocuses))
        dtype = model.nets.dtype
        none = np.empty((0, 2), dtype=np.int64)
        edits: tuple[Any, Any] = (none, none)
        found = self._find(tokens)
        if count > OVERHANG * limits.budget:
            before = grown(self.focus, count)
            (after,) = prefill_focus(
                [tokens],
                self._embeddings,
                model.nets.lensnet,
                allocator,
                limits,
                dtype=dtype,
                rounds=model.settings.rounds,
                found=found,
            )
        else:
            before = grown(self.focus, count)
            scores = scores_for(allocator, model.nets.lensnet, self._embeddings, [before.cut], dtype)
            (after,), (edits,) = plan_and_apply([before], scores, allocator, limits, found)
        in_use = len(self._focus.cut) if count > OVERHANG * limits.budget else len(before.cut)
        self._set_focus(after)
        self.since = min(count, 1)  # so that one falls on every `interval`-th token
        self.refocuses += 1
        self._wanted = False
        if self._seen is not None:
            if len(self._seen) >= KEPT_VIEWS:
                self._seen = [finest(self._seen)]
            self._seen.append(runs_of(after.cut))
        measures = measure(before, after, edits, model.recent_tokens, limits)
        # Of a long prompt none was in the Working Context when the refocus began.
        measures = replace(measures, residency=in_use / limits.budget)
        self.recent.append(Refocus([], [edits], [measures], time.perf_counter() - began))

    def _embeddings(self, cuts: Sequence[Cut]) -> list[Tensor]:
        return [self.tree.entries(cut).embeddings for cut in cuts]

    def _find(self, tokens: int) -> Found | None:
        """What the newest of the `tokens` tokens in the tree ask for: as many spans as the Working Context could show, and as
        many again, since those in its tail are shown in any case."""
        search, settings = self.search, self.model.settings
        if search is None:
            return None
        while search.tokens < tokens:  # the first time, all of a history that was loaded
            search.append(self.tree.ids(search.tokens, min(tokens, search.tokens + APPEND)))
        query = self.tree.ids(max(0, tokens - settings.search.query_tokens), tokens)
        start, stop, score = search.find(
            query, tokens - self.model.recent_tokens, 2 * settings.budget // search.span + 1
        )
        return Found(np.zeros(len(start), dtype=np.int64), start, stop, score)

    # --- what was seen ------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to note what the model sees, for `seen`."""
        self._seen = [runs_of(self.focus.cut)]

    def seen(self) -> list[tuple[int, int, int]]:
        """What the model has seen since `watch`, as runs `(start, stop, level)` of the finest level of each token, in order."""
        start, stop, level = finest([*(self._seen or []), runs_of(self.focus.cut)])
        return list(zip(start.tolist(), stop.tolist(), level.tolist(), strict=True))


def _mix(seed: int, count: int) -> int:
    """One seed of two numbers."""
    return (seed * 0x9E3779B97F4A7C15 + count) % 2**63
