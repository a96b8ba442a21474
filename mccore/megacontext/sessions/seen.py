"""What of a history was shown, and how finely: the levels of several cuts put together, as runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.megacontext.tree.cut import Cut

KEPT_VIEWS = 64  # until they are put together


class Runs(NamedTuple):
    """Neighbouring stretches of a history `[start, stop)`, from token 0 on, and the level that each is shown at."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    level: NDArray[np.int64]


def runs_of(cut: Cut) -> Runs:
    """The levels of a cut, as few runs as there can be."""
    return _joined(cut.start, cut.stop, cut.level.astype(np.int64))


def finest(views: Sequence[Runs]) -> Runs:
    """The finest level that any of the views shows each token at."""
    views = [view for view in views if len(view.start)]
    if not views:
        none = np.zeros(0, dtype=np.int64)
        return Runs(none, none, none)
    edges = np.unique(np.concatenate([np.append(view.start, view.stop[-1]) for view in views]))
    level = np.full(len(edges) - 1, np.iinfo(np.int64).max)
    for view in views:
        known = np.searchsorted(edges, view.stop[-1])
        at = np.searchsorted(view.stop, edges[:known], side="right")
        level[:known] = np.minimum(level[:known], view.level[at])
    return _joined(edges[:-1], edges[1:], level)


def _joined(start: NDArray[np.int64], stop: NDArray[np.int64], level: NDArray[np.int64]) -> Runs:
    """Neighbours of one level as one run."""
    if not len(level):
        return Runs(start, stop, level)
    first = np.flatnonzero(np.r_[True, level[1:] != level[:-1]])
    return Runs(start[first], stop[np.append(first[1:], len(level)) - 1], level[first])


class Views:
    """The cuts that were shown while somebody watched, put together now and then."""

    def __init__(self, cut: Cut) -> None:
        self._runs = [runs_of(cut)]

    def add(self, cut: Cut) -> None:
        """A cut is shown."""
        if len(self._runs) >= KEPT_VIEWS:
            self._runs = [finest(self._runs)]
        self._runs.append(runs_of(cut))

    def finest(self, cut: Cut) -> Runs:
        """The finest level that each token was shown at, or is now, by `cut`."""
        return finest([*self._runs, runs_of(cut)])
