"""Where what a prediction needs has stood: delta NLL by distance, and by the level of detail at that place.

What can be told without a model is copying: a scored token whose pair with the token before it came earlier in the history
could be copied from there. Its place is the newest such pair; how far back that is, and as what a Working Context showed it,
says what the context cost there. Most tokens of a text have no such place; they are a group of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mccore.eval.context.statistics import Values, estimate

NOWHERE = -1  # no earlier pair
ABSENT = -1  # the level of a place that a context doesn't show
_BINS = 7  # of distance at most, the nearest one aside


def newest_pairs(rows: Tensor, horizon: int) -> Tensor:
    """For each of the last `horizon` tokens of rows [R, T + 1]: the position of the newest earlier token of the same id that
    follows the same id, int64 [R, H], `NOWHERE` where there is none."""
    before, token = rows[:, :-1], rows[:, 1:]  # a pair ends at position 1 and later
    same = (before[:, None, :] == before[:, -horizon:, None]) & (token[:, None, :] == token[:, -horizon:, None])
    place = same.new_tensor(range(1, rows.size(1)), dtype=rows.dtype)  # [T]
    earlier = place < place[-horizon:, None]  # [H, T]
    found: Tensor = (same & earlier).long().mul(place).amax(dim=2)
    return found.masked_fill(found == 0, NOWHERE)


def level_at(place: Tensor, state: Tensor, block_size: int) -> Tensor:
    """The level of what shows each place [R, H] in cuts with the levels `state` [R, blocks]; `ABSENT` for `NOWHERE`."""
    found = state.gather(1, (place.clamp(min=0) // block_size).clamp(max=state.size(1) - 1))
    return found.masked_fill(place == NOWHERE, ABSENT)


def distance_edges(longest: int, nearest: int) -> list[int]:
    """Lower edges of the bins of distance: 1, `nearest`, and from there on by a common factor, 2 if so few bins do."""
    factor, edges = 1, [1]
    while len(edges) == 1 or len(edges) > _BINS + 1:
        factor *= 2
        edges = [1]
        while (edge := nearest * factor ** (len(edges) - 1)) <= longest or len(edges) == 1:
            edges.append(edge)
    return edges


def by_distance(
    delta: Mapping[str, Values], distance: NDArray[np.int64], nearest: int, clusters: NDArray[np.int64] | None
) -> list[dict[str, Any]]:
    """Rows {condition, from, to, delta, stderr, tokens}: the mean of `delta` [R, H] of every condition over the scored tokens
    whose place is so many tokens back, int64 [R, H], below 1 for nowhere, which is the row without `from` and `to`.
    Distances are in `[from, to)`; bins without a token are left out. Standard errors go by cluster [R], or row."""
    edges = distance_edges(int(distance.max(initial=1)), nearest)
    bins: list[tuple[int | None, int | None]] = [*zip(edges, [*edges[1:], None], strict=True), (None, None)]
    chosen = [(distance >= (low or 0)) & (distance < (high or np.inf)) if low else distance < 1 for low, high in bins]
    return [
        {"condition": name, "from": low, "to": high, **_mean(values, within, clusters)}
        for name, values in delta.items()
        for (low, high), within in zip(bins, chosen, strict=True)
        if within.any()
    ]


def by_lod(
    delta: Mapping[str, Values],
    level: Mapping[str, NDArray[np.int64]],
    levels: Sequence[int],
    clusters: NDArray[np.int64] | None,
) -> list[dict[str, Any]]:
    """Rows {condition, lod, delta, stderr, tokens}: the mean over the scored tokens whose place the condition showed at a
    level, of which it has `level` [R, H]. As `by_distance`."""
    return [
        {"condition": name, "lod": lod, **_mean(delta[name], at == lod, clusters)}
        for name, at in level.items()
        for lod in levels
        if (at == lod).any()
    ]


def _mean(values: Values, chosen: NDArray[np.bool_], clusters: NDArray[np.int64] | None) -> dict[str, Any]:
    row = np.nonzero(chosen)[0]
    found = estimate(values[chosen], row if clusters is None else clusters[row])
    return {"delta": found.mean, "stderr": found.stderr, "tokens": int(chosen.sum())}
