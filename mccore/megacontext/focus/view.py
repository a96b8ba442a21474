"""Many cuts at once: from cuts to the padded [B, W] arrays of `api.FocusView` and back, and a batch of edits applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.api import Edits, FocusView, Found
from mccore.megacontext.tree.cut import PADDING, Cut, CutError, IllegalEdit, Indices
from mccore.megacontext.tree.edits import apply


def pack(
    cuts: Sequence[Cut],
    scores: Sequence[NDArray[Any]] | None = None,
    ages: Sequence[NDArray[Any]] | None = None,
    *,
    width: int | None = None,
    found: Found | None = None,
) -> FocusView:
    """Cuts side by side as a FocusView [B, W], padded to the longest or to `width`; scores and ages default to 0."""
    lengths = np.array([len(cut) for cut in cuts], dtype=np.int64)
    longest = int(lengths.max(initial=0)) if width is None else width
    if (lengths > longest).any():
        wrong = int(np.argmax(lengths > longest))
        raise CutError(f"row {wrong} has {lengths[wrong]} entries, more than the width of {longest}")
    there = np.arange(longest) < lengths[:, None]  # [B, W]

    def filled(rows: Sequence[NDArray[Any]] | None, dtype: Any, padding: int) -> NDArray[Any]:
        out = np.full(there.shape, padding, dtype=dtype)
        if rows is not None and len(rows):
            out[there] = np.concatenate(rows)
        return out

    return FocusView(
        level=filled([cut.level for cut in cuts], np.int8, PADDING),
        index=filled([cut.index for cut in cuts], np.int64, 0),
        score=filled(scores, np.float32, 0),
        age=filled(ages, np.int32, 0),
        tokens=np.array([cut.tokens for cut in cuts], dtype=np.int64),
        found=found,
    )


def unpack(view: FocusView, block_size: int) -> list[Cut]:
    """The cut of each row of a view, without its padding."""
    lengths = (view.level != PADDING).sum(axis=1)
    return [
        Cut(level[:length], index[:length], block_size)
        for level, index, length in zip(view.level, view.index, lengths, strict=True)
    ]


def apply_batch(cuts: Sequence[Cut], edits: Edits, *, budget: int, recent_tokens: int, max_lod: int) -> list[Cut]:
    """Each row's cut after its share of the edits. Raises IllegalEdit naming the row; then no row's edits count."""
    expand, collapse = _rows(edits.expand, len(cuts), "expand"), _rows(edits.collapse, len(cuts), "collapse")
    after = []
    for row, cut in enumerate(cuts):
        try:
            after.append(
                apply(
                    cut,
                    expand[expand[:, 0] == row, 1:],
                    collapse[collapse[:, 0] == row, 1:],
                    budget=budget,
                    recent_tokens=recent_tokens,
                    max_lod=max_lod,
                )
            )
        except IllegalEdit as error:
            raise IllegalEdit(f"row {row}: {error.message}", blame=error.blame, hint=error.hint) from error
    return after


def _rows(edits: NDArray[Any], rows: int, kind: str) -> Indices:
    table = np.asarray(edits)
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu":
        raise IllegalEdit(f"{kind}: expected integers [edits, 3], got {table.dtype} {list(table.shape)}")
    outside = (table[:, 0] < 0) | (table[:, 0] >= rows)
    if outside.any():
        row, level, index = table[np.argmax(outside)].tolist()
        raise IllegalEdit(f"{kind} ({level}, {index}): there is no row {row} among {rows}")
    return table.astype(np.int64)


def carry_ages(before: Cut, after: Cut, age: NDArray[Any]) -> NDArray[np.int32]:
    """Ages int32 [L] after a refocus: one more for entries that stayed, 0 for new ones. `age` belongs to `before`."""
    out = np.zeros(len(after), dtype=np.int32)
    if len(before) and len(after):
        at = np.minimum(np.searchsorted(before.start, after.start), len(before) - 1)
        stayed = (before.level[at] == after.level) & (before.index[at] == after.index)
        out[stayed] = np.asarray(age)[at[stayed]] + 1
    return out
