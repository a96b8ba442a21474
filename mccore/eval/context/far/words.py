"""Where what a prediction needs stands: in the window, only far behind it, or nowhere. A memory can help where it is far only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.eval.context.statistics import Values, estimate

PLACES = (
    "nowhere before",
    "far only, its pair far too",
    "far only, its pair nowhere",
    "in the window, its pair far only",
    "in the window, its pair nowhere",
    "its pair in the window, its triple not",
    "its triple in the window",
)
FAR_ONLY = (1, 2)  # of PLACES: no window shows the word

REPETITION = (
    "hardly",
    "some",
    "half",
    "mostly",
)  # of the tokens follow a pair that stood before: below .25, .5, .75, above


def places(rows: NDArray[np.int64], horizon: int, window: int) -> NDArray[np.int64]:
    """Which of `PLACES` each of the last `horizon` tokens of rows [R, n] is, int64 [R, H]. The window are the `window` tokens
    before the horizon, and the horizon's up to the token."""
    found = np.empty((len(rows), horizon), dtype=np.int64)
    begin = rows.shape[1] - horizon - window
    for row, ids in enumerate(rows):
        for number, at in enumerate(range(len(ids) - horizon, len(ids))):
            word = np.flatnonzero(ids[:at] == ids[at])
            pair = word[word > 0]
            pair = pair[ids[pair - 1] == ids[at - 1]]
            triple = pair[pair > 1]
            triple = triple[ids[triple - 2] == ids[at - 2]]
            found[row, number] = _place(word, pair, triple, begin)
    return found


def _place(word: NDArray[Any], pair: NDArray[Any], triple: NDArray[Any], begin: int) -> int:
    if not len(word):
        return 0
    if word[-1] < begin:
        return 1 if len(pair) else 2
    # A pair is in the window where both of its words are.
    if not len(pair) or pair[-1] <= begin:
        return 3 if len(pair) else 4
    return 6 if len(triple) and triple[-1] > begin + 1 else 5


def repetition(rows: NDArray[np.int64], horizon: int) -> NDArray[np.int64]:
    """Which of `REPETITION` each row [R, n] is: by the share of its last `horizon` tokens whose pair stood before."""
    found = places(rows, horizon, rows.shape[1] - horizon)  # a window of everything
    share = (found >= 5).mean(axis=1)
    kinds: NDArray[np.int64] = np.searchsorted([0.25, 0.5, 0.75], share, side="right")
    return kinds


def text_kind(text: str) -> str:
    """What a text is, by its characters: `data` (digits and signs, hardly a word), `code` or `prose`."""
    visible = [letter for letter in text if not letter.isspace()]
    if not visible:
        return "data"
    letters = sum(letter.isalpha() for letter in visible) / len(visible)
    signs = sum(letter in "()[]{}=_.:;<>+*/\\|&%#@\"'" for letter in visible) / len(visible)
    return "data" if letters < 0.55 else "code" if signs > 0.1 else "prose"


def by_place(
    losses: Mapping[str, Values], place: NDArray[np.int64], documents: NDArray[np.int64] | None, against: str
) -> list[dict[str, Any]]:
    """Rows {condition, place, share, nll, delta, stderr, tokens}: the mean over the tokens [R, H] of each place, and what it is
    more than under `against`. `far only` stands for both rows of it."""
    groups = {name: place == number for number, name in enumerate(PLACES)}
    groups["far only"] = np.isin(place, FAR_ONLY)
    return [
        {"condition": name, "place": which, **_difference(values, losses[against], chosen, documents)}
        for name, values in losses.items()
        for which, chosen in groups.items()
        if chosen.any()
    ]


def by_kind(
    losses: Mapping[str, Values],
    kinds: Mapping[str, NDArray[np.str_]],
    documents: NDArray[np.int64] | None,
    against: str,
) -> list[dict[str, Any]]:
    """Rows {condition, by, kind, share, nll, delta, stderr, tokens}: as `by_place`, by kinds of rows [R]."""
    return [
        {
            "condition": name,
            "by": by,
            "kind": str(kind),
            **_difference(values, losses[against], np.broadcast_to((of_row == kind)[:, None], values.shape), documents),
        }
        for name, values in losses.items()
        for by, of_row in kinds.items()
        for kind in np.unique(of_row)
    ]


def _difference(
    values: Values, other: Values, chosen: NDArray[np.bool_], documents: NDArray[np.int64] | None
) -> dict[str, Any]:
    row = np.nonzero(chosen)[0]
    clusters = row if documents is None else documents[row]
    found = estimate((values - other)[chosen], clusters)
    return {
        "share": float(chosen.mean()),
        "nll": float(values[chosen].mean()),
        "delta": found.mean,
        "stderr": found.stderr,
        "tokens": int(chosen.sum()),
    }
