"""A session's focus as a small value, and the limits it has to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mccore.errors import MccoreError
from mccore.megacontext.tree.cut import Cut, coarsest, finest, recency_pyramid
from mccore.megacontext.tree.edits import append

MEMORY = 3  # refocuses within which an edit counts as undone

UNCHOSEN_AGE = 1 << 20  # age of entries that nobody chose: no allocator's residency protects them

Nodes = NDArray[np.int64]  # [E, 2], (level, index)


class FocusError(MccoreError):
    """Scores that no allocator can use, or a history that doesn't fit the Working Context."""


@dataclass(frozen=True)
class Limits:
    """What bounds the Working Contexts of a model: `budget` entries (W), of which a refocus leaves `room` free for the
    tokens that come before the next one."""

    budget: int
    block_size: int
    max_lod: int
    room: int = 0

    @property
    def entries(self) -> int:
        """Entries that a refocus may leave."""
        return self.budget - self.room


@dataclass(frozen=True)
class FocusState:
    """The focus of one session: its cut, the refocuses that each entry has kept its level, and the edits of the last
    `MEMORY` refocuses, oldest first, as (expanded nodes, collapsed parents)."""

    cut: Cut
    age: NDArray[np.int32]  # [L]
    recent: tuple[tuple[Nodes, Nodes], ...] = ()


# --- states -----------------------------------------------------------------------------------------------------------


def start_focus(tokens: int, limits: Limits, recent_tokens: int, *, coarse: bool = False) -> FocusState:
    """The focus of a history nobody has looked at: all of it where it fits, else detail that only grows with time, or with
    `coarse` the shortest cut. Raises FocusError when even that is longer than a refocus may leave.
    """
    shape = (tokens, limits.block_size, limits.max_lod, recent_tokens)
    check_fits(tokens, limits, recent_tokens)
    if tokens <= limits.entries:
        cut = finest(tokens, limits.block_size)
    else:
        cut = coarsest(*shape) if coarse else recency_pyramid(*shape, limits.entries)
    return FocusState(cut, np.zeros(len(cut), dtype=np.int32))


def append_tokens(focus: FocusState, tokens: int, limits: Limits) -> FocusState:
    """The focus with `tokens` new tokens behind it. Raises FocusError when they don't fit: a refocus is due."""
    if len(focus.cut) + tokens > limits.budget:
        raise FocusError(
            f"{tokens} more tokens don't fit a Working Context that has {len(focus.cut)} of {limits.budget} entries",
            hint="refocus first, with room for them",
        )
    return replace(
        focus, cut=append(focus.cut, tokens), age=np.concatenate([focus.age, np.zeros(tokens, dtype=np.int32)])
    )


def check_fits(tokens: int, limits: Limits, recent_tokens: int) -> None:
    """Raise FocusError when no legal cut of `tokens` tokens has as few entries as a refocus has to leave."""
    shortest = len(coarsest(tokens, limits.block_size, limits.max_lod, recent_tokens))
    if shortest > limits.entries:
        room = f", {limits.room} of them kept free for new tokens" if limits.room else ""
        raise FocusError(
            f"a history of {tokens} tokens takes at least {shortest} entries with {recent_tokens} recent tokens and "
            f"gists up to LOD{limits.max_lod}, and the Working Context has {limits.budget}{room}",
            hint="raise megacontext.wc_length, or megacontext.max_lod, or lower the allocator's recent_tokens",
        )
