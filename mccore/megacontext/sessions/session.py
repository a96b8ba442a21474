"""A history without end and the model's view of it: tokens go in, the logits of the next one come out, at a cost that depends
on the Working Context alone.

A `Session` is one history: its tree, its focus, and the keys and values of its Working Context. `append` only remembers; `read`
brings what is unread before the model. Whenever the Working Context is full, `refocus_interval` tokens have passed, a token
came as a surprise, or someone asked for it, LensNet scores the entries and the allocator edits them. All that sessions
share is in a `SessionModel`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mccore.megacontext.focus.measures import Refocus
from mccore.megacontext.focus.state import FocusState
from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.ngram import HistorySearch
from mccore.megacontext.sessions.cache import WorkingContextCache, cut_part
from mccore.megacontext.sessions.history import History
from mccore.megacontext.sessions.lookup.of_session import SessionLookup, Spoken, mix
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.reading import Reading
from mccore.megacontext.sessions.refocusing import Refocuser
from mccore.megacontext.sessions.seen import Views
from mccore.megacontext.tree.tree import Tree

KEPT_REFOCUSES = 256  # of which statistics are kept


class Work(NamedTuple):
    """What is left of reading a session's newest token: one pass, at `position`, behind all that its cache holds.

    after_token: whether the entry before it is a token, of which it takes its share. changed: whether the cache holds other
    entries than after the last pass.
    """

    token: int
    position: int
    after_token: bool
    changed: bool


class Session:
    """One history and the focus on it. Not shared between threads.

    tree: holds the history, which may have tokens already: they are unread. It belongs to the session from now on.
    seed: of an allocator that draws. search: what searches the history, where it isn't to be what the model's options say.
    """

    def __init__(self, model: SessionModel, tree: Tree, *, seed: int = 0, search: HistorySearch | None = None) -> None:
        self.model, self.tree, self.seed = model, tree, seed
        self.history = History(tree, model.gpt.config.vocab_size)
        self.index = BigramIndex()  # of the history, as far as somebody has searched it or looked it up
        self.search = search or model.new_search(self.index)
        self.lookup = None if model.mixer is None else SessionLookup(self.history, self.index)
        self.working_context = WorkingContextCache(model.gpt, model.nets, model.options.wc_length)
        self.reading = Reading(FocusState(self.working_context.cut, np.zeros(0, dtype=np.int32)))
        self.directory: Path | None = None  # where it lives, when it is saved
        self.recent: deque[Refocus] = deque(maxlen=KEPT_REFOCUSES)
        self._refocuser = Refocuser(model, self.history, seed, self.search)
        self._views: Views | None = None

    # --- the history --------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of the history, unread ones included (n)."""
        return self.history.tokens

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t], to the history; `read` shows them to the model. Raises TreeError for what isn't a list of ids that
        the model knows, and then adds none."""
        self.history.append(ids)

    def append_token(self, token: int) -> None:
        """Add one token: `append` in a hurry. Raises TreeError for an id that the model doesn't know, and then adds none."""
        self.history.append_token(token)
        if self.lookup is not None:
            self.lookup.took(token, self.tokens - 1)

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens `[start, stop)` of the history. Raises IndexError outside it."""
        return self.history.ids(start, stop)

    def settle(self) -> Callable[[], None]:
        """Put everything into the tree, and return what makes it survive a crash, where the tree can. That only waits for the
        disk and may run in a thread, as long as nothing is added meanwhile."""
        self.history.settle()
        return self.tree.flush

    def flush(self) -> None:
        """Make the history survive a crash, where its tree can."""
        self.settle()()

    def close(self) -> None:
        """Flush and let go of the tree."""
        self.history.settle()
        self.tree.close()

    # --- how far it is read -------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Tokens that the model hasn't been shown."""
        return self.history.tokens - self.reading.covered

    @property
    def focus(self) -> FocusState:
        """The cut of what has been read, and how long its entries have been in it."""
        return self.reading.focus

    @property
    def entries(self) -> int:
        """Entries of the Working Context."""
        return self.reading.entries

    @property
    def covered(self) -> int:
        """Tokens that the focus covers, read or about to be."""
        return self.reading.covered

    @property
    def logits(self) -> Tensor | None:
        """fp32 [V], after the last token read, log-probabilities where the session looks up; None before there is one."""
        return None if self.reading.logits is None else self._said()

    @property
    def refocuses(self) -> int:
        """Refocuses so far."""
        return self.reading.refocuses

    def refocus_next(self) -> None:
        """Ask for a refocus before the next token is read: something has happened, a question was put, a turn ended."""
        self.reading.want_refocus()

    # --- reading ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def read(self) -> Tensor:
        """Show the model what is unread, refocusing where that is due: logits of the next token, fp32 [V].

        Raises ValueError for an empty history, FocusError for scores that aren't numbers or a history that can't fit,
        IllegalEdit for an allocator's mistake; the focus is then what it was.
        """
        count, reading, newest = self.unread, self.reading, self.history.newest
        if not count and reading.logits is not None and not reading.refocus_wanted:
            return self._said()
        if not self.tokens:
            raise ValueError("there is nothing to read: the history is empty")
        alone = newest is not None and count == 1 and bool(reading.covered) and self._all_read()
        if self._begin(count, newest):
            hidden = self._read_focus()
        elif alone:
            token = torch.tensor([newest], device=self.model.gpt.device)
            hidden = self.working_context.read_tokens(token, reading.covered - 1)
        else:
            self.history.settle()
            hidden = self._read_focus()
        reading.finish(self.model.gpt.logits(hidden)[0])
        return self._said()

    @torch.inference_mode()
    def advance(self) -> Work:
        """Do all of `read` but the pass over the newest token, for a pass over many sessions; `accept` ends it.

        Something is unread. Errors as those of `read`.
        """
        count, newest = self.unread, self.history.newest
        alone = count == 1 and self._all_read()
        token = newest if newest is not None else int(self.history.ids(self.tokens - 1, self.tokens)[0])
        changed = self._begin(count, newest) or not alone
        if changed:
            self.history.settle()
            cut = self.focus.cut
            if len(cut) > 1:
                before = cut_part(cut, slice(0, -1))
                policy = self.model.options.kv_policy
                self.working_context.prepare(before, self.tree.entries, policy, later=1)
        return Work(token, self.covered - 1, self.working_context.ends_in_token(), changed)

    def accept(self, logits: Tensor) -> None:
        """Take the logits [V] after the token of `advance`, which has been read behind the cache, in another one."""
        self.working_context.hold_tokens(1)
        self.reading.finish(logits)

    @torch.inference_mode()
    def _said(self) -> Tensor:
        """The logits at rest, with what the lookup adds."""
        reading, mixer = self.reading, self.model.mixer
        assert reading.logits is not None
        if self.lookup is None or mixer is None:
            return reading.logits
        if reading.mixed is not None:
            return reading.mixed
        return reading.mix(mix(mixer, [self.lookup], [reading], reading.logits.unsqueeze(0))[0])

    def _begin(self, count: int, newest: int | None) -> bool:
        """Bring `count` unread tokens into the focus; whether that took a refocus."""
        due = self.refocus_is_due(count, newest)
        self.reading.begin()
        if due:
            self._refocus(count)
        else:
            self.reading.grow(count)
        return due

    def _read_focus(self) -> Tensor:
        return self.working_context.read(self.focus.cut, self.tree.entries, self.model.options.kv_policy)

    def _all_read(self) -> bool:
        """Whether the context cache holds all that the focus covers: after a read that failed it doesn't."""
        return self.working_context.entries == self.entries

    def refocus_is_due(self, count: int, newest: int | None = None) -> bool:
        """Whether reading `count` more tokens, `newest` the only one, needs a refocus first. A history that fits as it is
        needs none."""
        options, reading = self.model.options, self.reading
        if reading.entries + count > options.wc_length:
            return True
        if not reading.has_gists:
            return False
        late = reading.since + count > options.refocus_interval
        return reading.refocus_wanted or late or (count == 1 and self._surprised(newest))

    def _surprised(self, token: int | None) -> bool:
        """Whether the model had thought little of this token; not again within a quarter of the interval."""
        options, logits = self.model.options, self.logits
        if not options.surprise or token is None or logits is None:
            return False
        if 4 * self.reading.since < options.refocus_interval:
            return False
        return float(logits.logsumexp(0) - logits[token]) > options.surprise

    def _refocus(self, count: int) -> None:
        """Bring `count` unread tokens into the focus and edit it so that `refocus_interval` more fit."""
        focus, done = self._refocuser(self.focus, count, self.reading.refocuses)
        self.reading.refocused(focus, count)
        if self._views is not None:
            self._views.add(focus.cut)
        self.recent.append(done)

    def restore(self, focus: FocusState, *, since: int, refocuses: int) -> None:
        """Go on from a focus that was saved; nothing of it has been read yet."""
        self.reading.restore(focus, since=since, refocuses=refocuses)

    def resume(self, logits: Tensor) -> None:
        """Take the keys and values of the working context for what reading the focus has left, and `logits` for what came."""
        self.working_context.adopt(self.focus.cut)
        self.reading.finish(logits)

    # --- what was seen ------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to note what the model sees, for `seen`."""
        self._views = Views(self.focus.cut)
        if self.lookup is not None:
            self.lookup.watch()

    def spoken(self) -> list[Spoken]:
        """The tokens since `watch` that the lookup found elsewhere in the history, and where; none without one."""
        return [] if self.lookup is None else self.lookup.spoken

    def seen(self) -> list[tuple[int, int, int]]:
        """What the model has seen since `watch`, as runs `(start, stop, level)` of the finest level of each token, in order."""
        start, stop, level = (self._views or Views(self.focus.cut)).finest(self.focus.cut)
        return list(zip(start.tolist(), stop.tolist(), level.tolist(), strict=True))
