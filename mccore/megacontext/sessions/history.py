"""The tokens of a session in the order they came: those in a tree, and the newest, which are on their way into it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.megacontext.tree.tree import Tree, TreeError

APPEND = 2**16  # tokens that go into the tree at once: bounds the memory of a long prompt
MAX_WAITING = 512  # tokens that wait for the tree: GistNet makes the gists of many at a time


class History:
    """All tokens of a session. tree: has the first of them, and belongs to the history. vocab_size: ids lie below it."""

    def __init__(self, tree: Tree, vocab_size: int) -> None:
        self.tree = tree
        self.vocab_size = vocab_size
        self._waiting: list[int] = []

    @property
    def tokens(self) -> int:
        """How many there are (n)."""
        return self.tree.tokens + len(self._waiting)

    @property
    def newest(self) -> int | None:
        """The last token, where it came alone and isn't in the tree yet."""
        return self._waiting[-1] if self._waiting else None

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t]. Raises TreeError for what isn't a list of ids that the model has, and then adds none."""
        array = np.asarray(ids)
        unknown = array.size and array.dtype.kind in "iu" and int(array.max()) >= self.vocab_size
        if unknown:  # in the tree it would never get a gist
            raise TreeError(f"token ids of this model lie in [0, {self.vocab_size}), and one is {array.max()}")
        self.settle()
        for start in range(0, max(1, len(array) if array.ndim else 1), APPEND):
            self.tree.append(array[start : start + APPEND] if array.ndim else array)

    def append_token(self, token: int) -> None:
        """Add one token, in a hurry. Raises TreeError for an id that the model doesn't know, and then adds none."""
        if not 0 <= token < self.vocab_size:
            raise TreeError(f"token ids of this model lie in [0, {self.vocab_size}), and one is {token}")
        if len(self._waiting) >= MAX_WAITING:
            self.settle()
        self._waiting.append(token)

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens `[start, stop)`. Raises IndexError outside the history."""
        self.settle()
        return self.tree.ids(start, stop)

    def settle(self) -> None:
        """Bring all tokens into the tree."""
        if not self._waiting:
            return
        before = self.tree.tokens
        try:
            self.tree.append(self._waiting)
        finally:  # the tree may hold them even where making their gists failed
            del self._waiting[: self.tree.tokens - before]
