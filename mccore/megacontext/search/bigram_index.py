"""The bigrams of one growing history, each with its number and the chain of its places, newest first.

An open hash table has for each distinct bigram its newest place and its count; every place knows the one before it. The ids
themselves tell bigrams apart, so colliding hashes cost time and never change an answer. A place is the position of a bigram's
last token. Memory: 8 bytes per token and 11 to 21 per distinct bigram, a quarter more per token where arrays have just grown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mccore.errors import MccoreError

PIECE = 2**16  # tokens that are indexed at once
MAX_ID = 2**31 - 1  # ids and positions are stored in 4 bytes
FIRST = 1024  # slots, and tokens that there is room for, at the start
# 2^64 over the golden ratio: multiplying by it spreads keys over the upper bits of the product.
_MIX = 0x9E3779B97F4A7C15


class SearchError(MccoreError):
    """Token ids that an index can't hold."""


class BigramIndex:
    """An index of a history that only grows, empty at first."""

    def __init__(self) -> None:
        self.tokens = 0  # of the history (n)
        self._ids = np.zeros(FIRST, dtype=np.int32)
        # No bigram ends at 0, so that says "none", and follows itself.
        self._former = np.zeros(FIRST, dtype=np.int32)
        self._newest = np.zeros(FIRST, dtype=np.int32)  # of each slot; 0: a free one
        self._count = np.zeros(FIRST, dtype=np.int32)
        self._distinct = 0
        self._look()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, room for growth included."""
        return self._ids.nbytes + self._former.nbytes + self._newest.nbytes + self._count.nbytes

    def ids(self, position: NDArray[Any]) -> NDArray[np.int32]:
        """The tokens at these positions."""
        found: NDArray[np.int32] = self._ids[position]
        return found

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t] from 0 to 2^31 - 1. Raises SearchError for others, or more than 2^31 - 1 tokens, and adds none."""
        array = checked_ids(ids)
        if self.tokens + len(array) > MAX_ID:
            raise SearchError(f"an index holds {MAX_ID} tokens at most", hint="search a part of the history")
        for start in range(0, len(array), PIECE):
            self._append(array[start : start + PIECE])

    def append_token(self, token: int) -> None:
        """Add one token: `append` in a hurry. Raises SearchError as it does."""
        place = self.tokens
        if not 0 <= token <= MAX_ID or place >= MAX_ID:
            self.append([token])  # which says what is wrong
            return
        if place == len(self._ids):
            self._make_room(place + 1)
        ids, former, newest, count = self._views
        ids[place] = token
        self.tokens = place + 1
        if not place:
            return
        slot = self._slot(ids[place - 1], token)
        former[place] = there = newest[slot]
        if there:
            newest[slot] = place
            count[slot] += 1
        elif 4 * (self._distinct + 1) <= 3 * len(newest):
            self._distinct += 1
            newest[slot], count[slot] = place, 1
        else:
            at = np.array([place])
            self._add(self._keys(at), at, np.ones(1, dtype=np.int64))

    def former(self, place: int, most: int) -> tuple[list[int], bool]:
        """The places of the bigram that ends at `place` before it, newest first, at most so many; whether that is all."""
        found: list[int] = []
        former, at = self._views[1], place
        while at := former[at]:
            if len(found) == most:
                return found, False
            found.append(at)
        return found, True

    def matching(self, place: int, other: int, most: int) -> int:
        """How many of the tokens that end at `place` are those that end at `other`, a later place: at most so many."""
        ids, length, end = self._views[0], 0, min(most, place + 1)
        while length < end and ids[place - length] == ids[other - length]:
            length += 1
        return length

    def places(self, keys: NDArray[np.uint64], reach: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The newest `reach` places of each bigram (`pair`) [D], newest first and 0 behind the last one, int32 [D, reach], and
        how many it has in all, int32 [D]."""
        slot = self._slots(keys)
        place = np.empty((reach, len(keys)), dtype=np.int32)
        at = self._newest[slot]
        for step in range(reach):
            place[step] = at
            at = self._former[at]
        return place.T, self._count[slot]

    def _append(self, ids: NDArray[np.int32]) -> None:
        there, tokens = self.tokens, self.tokens + len(ids)
        if tokens > len(self._ids):
            self._make_room(tokens)
        self._ids[there:tokens] = ids
        self.tokens = tokens
        place = np.arange(max(there, 1), tokens)
        keys = self._keys(place)
        order = np.argsort(keys, kind="stable")
        keys, place = keys[order], place[order]
        first = np.flatnonzero(np.concatenate((np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1])))
        keys, count = keys[first], np.diff(first, append=len(place))
        slot = self._slots(keys)
        former = np.concatenate((np.zeros(min(1, len(place)), np.int64), place[:-1]))
        former[first] = self._newest[slot]
        self._former[place] = former
        newest = place[first + count - 1]
        new = former[first] == 0
        self._newest[slot[~new]] = newest[~new]
        self._count[slot[~new]] += count[~new].astype(np.int32)
        if new.any():
            self._add(keys[new], newest[new], count[new])

    def _make_room(self, tokens: int) -> None:
        room = tokens + tokens // 4
        self._ids, self._former = _longer(self._ids, room), _longer(self._former, room)
        self._look()

    def _look(self) -> None:
        """Look at the arrays as memory: there a single number is read and written in a third of the time."""
        self._views = tuple(map(memoryview, (self._ids, self._former, self._newest, self._count)))

    def _slot(self, first: int, second: int) -> int:
        """`_slots` of one bigram."""
        ids, _, newest, _ = self._views
        size = len(newest)
        slot = (((first << 32 | second) * _MIX) & (2**64 - 1)) >> (65 - size.bit_length())
        step = 0
        while place := newest[slot]:
            if ids[place] == second and ids[place - 1] == first:
                break
            step += 1
            slot = (slot + step) % size
        return slot

    def _keys(self, place: NDArray[Any]) -> NDArray[np.uint64]:
        """The bigrams that end at these places."""
        return pair(self._ids[place - 1], self._ids[place])

    def _hash(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        bits = len(self._newest).bit_length() - 1
        return ((keys * np.uint64(_MIX)) >> np.uint64(64 - bits)).astype(np.int64)

    def _slots(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The slot of each bigram, a free one where the history hasn't got it. Probing goes on by 1, 2, 3...: over all slots,
        as there are a power of two, and one in four is free."""
        slot, left, step = self._hash(keys), np.arange(len(keys)), 0
        while len(left):
            newest = self._newest[slot[left]]
            left = left[(newest > 0) & (self._keys(newest) != keys[left])]
            step += 1
            slot[left] = (slot[left] + step) % len(self._newest)
        return slot

    def _add(self, keys: NDArray[np.uint64], newest: NDArray[Any], count: NDArray[Any]) -> None:
        """Give new bigrams, each once, a slot."""
        self._distinct += len(keys)
        size = len(self._newest)
        if 4 * self._distinct > 3 * size:
            while 4 * self._distinct > 3 * size:
                size *= 2
            old = np.flatnonzero(self._newest)
            newest = np.concatenate((self._newest[old], newest))
            keys, count = self._keys(newest), np.concatenate((self._count[old], count))
            self._newest, self._count = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)
            self._look()
        slot, left, step = self._hash(keys), np.arange(len(keys)), 0
        while len(left):
            free = left[self._newest[slot[left]] == 0]
            self._newest[slot[free]] = newest[free]  # where several want one slot, one of them gets it
            left = left[self._newest[slot[left]] != newest[left]]
            step += 1
            slot[left] = (slot[left] + step) % size
        self._count[slot] = count


def checked_ids(ids: ArrayLike) -> NDArray[np.int32]:
    """Token ids as they are stored, [t]. Raises SearchError for what isn't a list of them."""
    array = np.asarray(ids)
    if array.ndim != 1 or (len(array) and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > MAX_ID)):
        raise SearchError(f"token ids are a list of integers from 0 to {MAX_ID}", hint="use the ids of a tokenizer")
    return array.astype(np.int32)


def pair(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.uint64]:
    """One key for every two ids, [D]."""
    return (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)


def _longer(array: NDArray[np.int32], room: int) -> NDArray[np.int32]:
    longer = np.zeros(room, dtype=np.int32)
    longer[: len(array)] = array
    return longer
