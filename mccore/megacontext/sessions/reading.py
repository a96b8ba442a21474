"""How far a history has been read: what the model is shown of it, and what it said after the newest token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.focus.state import FocusState
from mccore.megacontext.tree.edits import append


class RowsFailed(Exception):
    """Sessions of a batch couldn't read on, each for a reason of its own: `errors` by row. The others wait for their pass."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__("; ".join(f"row {row}: {error}" for row, error in errors.items()))
        self.errors = errors


class Reading:
    """The focus of a session and the tokens behind it, in one of two states.

    At rest, `logits` (fp32 [V]) are those after the last token that the focus covers. While tokens are being read, and where
    that failed, `logits` is None. Only `grow`, `refocused` and `restore` change what is covered, and each of them ends the
    rest; only `finish` begins it again.
    """

    def __init__(self, focus: FocusState) -> None:
        self.restore(focus, since=0, refocuses=0)

    def restore(self, focus: FocusState, *, since: int, refocuses: int) -> None:
        """Go on from a focus that was saved; nothing of it has been read yet."""
        if since < 0 or refocuses < 0:
            raise ValueError(f"counts can't be negative: {since} tokens since the last of {refocuses} refocuses")
        self._set(focus)
        self._since, self._refocuses, self._refocus_wanted = since, refocuses, False

    def _set(self, focus: FocusState) -> None:
        self._focus, self._grown = focus, 0
        self._focused = focus.cut.tokens
        self._has_gists = bool(focus.cut.level.any())
        self._far_tokens = focus.cut.index[focus.cut.level == 0] if self._has_gists else None
        self._forget()

    def _forget(self) -> None:
        self._logits: Tensor | None = None
        self._mixed: Tensor | None = None

    @property
    def focus(self) -> FocusState:
        """The cut of what is covered, and how long its entries have been in it."""
        if self._grown:  # arrays that grow by one per token would cost too much
            self._focus, self._focused = grown(self._focus, self._grown), self.covered
            self._grown = 0
        return self._focus

    @property
    def covered(self) -> int:
        """Tokens of the history that the focus covers, read or about to be."""
        return self._focused + self._grown

    @property
    def entries(self) -> int:
        """Entries of the Working Context."""
        return len(self._focus.cut) + self._grown

    @property
    def has_gists(self) -> bool:
        """Whether anything is shown coarser than token by token: only then has a refocus something to do."""
        return self._has_gists

    @property
    def since(self) -> int:
        """Tokens since the last refocus."""
        return self._since

    @property
    def refocuses(self) -> int:
        """Refocuses so far."""
        return self._refocuses

    @property
    def logits(self) -> Tensor | None:
        """fp32 [V], after the last token covered; None while that isn't known."""
        return self._logits

    @property
    def refocus_wanted(self) -> bool:
        """Whether the next token is to be read after a refocus."""
        return self._refocus_wanted and self._has_gists

    def want_refocus(self) -> None:
        """Ask for a refocus before the next token is read. A history that fits as it is needs none."""
        self._refocus_wanted = True

    def shows(self, position: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the Working Context shows these tokens that are covered, [C], as tokens."""
        if self._far_tokens is None:
            return np.ones(len(position), dtype=bool)
        tokens = self._far_tokens
        at = np.minimum(np.searchsorted(tokens, position), len(tokens) - 1)
        return (position >= self._focused) | (tokens[at] == position if len(tokens) else False)

    @property
    def mixed(self) -> Tensor | None:
        """fp32 [V], `logits` with what was looked up; None where nobody has asked for it yet."""
        return self._mixed

    def mix(self, mixed: Tensor) -> Tensor:
        """Keep what `logits` come to with what was looked up."""
        self._mixed = mixed
        return mixed

    def begin(self) -> None:
        """Something is going to be read."""
        self._forget()

    def grow(self, count: int) -> None:
        """`count` more tokens come behind the focus; they fit."""
        self._forget()
        self._grown += count
        self._since += count
        if not self._has_gists:
            self._refocus_wanted = False

    def refocused(self, focus: FocusState, count: int) -> None:
        """Another focus, which covers `count` tokens more."""
        if focus.cut.tokens != self.covered + count:
            raise ValueError(f"a focus of {focus.cut.tokens} tokens isn't one of {self.covered} and {count} more")
        self._set(focus)
        self._since = min(count, 1)  # so that one falls on every `refocus_interval`-th token
        self._refocuses += 1
        self._refocus_wanted = False

    def finish(self, logits: Tensor) -> Tensor:
        """All that is covered has been read: `logits` [V] come after it."""
        self._logits, self._mixed = logits, None
        return logits


def grown(focus: FocusState, count: int) -> FocusState:
    """A focus with `count` new tokens behind it, whether they fit or not."""
    age = np.concatenate([focus.age, np.zeros(count, dtype=np.int32)])
    return replace(focus, cut=append(focus.cut, count), age=age)
