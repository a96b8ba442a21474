"""The Working Context laid over its history: which level of detail each stretch is shown at.

A Working Context comes as runs `[level, entries]`, oldest first, as `working_context_snapshot` events have them. Terminals,
reports and pages draw the same cells, each in its own shades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """Tokens `[start, stop)` of the history at one level."""

    start: int
    stop: int
    level: int


def stretches(runs: Sequence[Sequence[int]], block_size: int, history: int) -> list[Stretch]:
    """Where each run lies. The last gist may cover more than there is: it ends with the history.

    Raises ValueError when a run has a negative level or no entries, or when the runs don't cover the history.
    """
    found: list[Stretch] = []
    start = 0
    for level, entries in runs:
        if level < 0 or entries <= 0:
            raise ValueError(f"a run of {entries} entries at level {level}")
        stop = min(start + entries * block_size**level, history)
        if stop > start:
            found.append(Stretch(start, stop, level))
        start = stop
    if start < history:
        raise ValueError(f"the runs cover {start} of {history} tokens")
    return found


def cells(shown: Sequence[Stretch], count: int) -> list[int]:
    """The finest level in each of `count` equal parts of the history, oldest first; empty for an empty history."""
    if not shown or count < 1:
        return []
    total = shown[-1].stop
    levels: list[int] = []
    first = 0
    for cell in range(count):
        start = cell * total / count
        stop = max((cell + 1) * total / count, start + 1)
        while first < len(shown) - 1 and shown[first].stop <= start:
            first += 1
        finest = shown[first].level
        at = first
        while at < len(shown) and shown[at].start < stop:
            finest = min(finest, shown[at].level)
            at += 1
        levels.append(finest)
    return levels


SHADES = "█▓▒░"  # tokens, LOD1, LOD2, coarser
CELL_TOKENS = 16  # a text has no more cells than the history has of these


def text_map(shown: Sequence[Stretch], *, width: int = 64, most_lines: int = 8, shades: str = SHADES) -> list[str]:
    """The map in lines of text, oldest first: the first token of each line, and its cells. Empty for an empty history."""
    if not shown:
        return []
    total = shown[-1].stop
    count = max(1, min(most_lines, round(total / (width * CELL_TOKENS))))
    levels = cells(shown, width * count)
    digits = len(f"{total:,}")
    return [
        f"{total * line // count:>{digits},} |"
        + "".join(shades[min(level, len(shades) - 1)] for level in levels[line * width : (line + 1) * width])
        + "|"
        for line in range(count)
    ]


def legend(shades: str = SHADES) -> str:
    """What the characters of a map mean."""
    return "  ".join(
        f"{shade} {word}" for shade, word in zip(shades, ("tokens", "LOD1", "LOD2", "coarser"), strict=True)
    )


def changed(before: Sequence[Stretch], after: Sequence[Stretch], count: int) -> list[bool]:
    """Which of the `count` cells of `after` show another level than `before` did at the same tokens."""
    if not after:
        return []
    total = after[-1].stop
    known = before[-1].stop if before else 0
    new = cells(after, count)
    old = cells(before, max(1, round(count * known / total))) if known else []
    marks = []
    for cell, level in enumerate(new):
        inside = (cell + 1) * total / count <= known
        same = inside and cell < len(old) and old[cell] == level
        marks.append(inside and not same)
    return marks


def histogram(runs: Sequence[Sequence[int]]) -> dict[int, int]:
    """Entries by level."""
    found: dict[int, int] = {}
    for level, entries in runs:
        found[level] = found.get(level, 0) + entries
    return dict(sorted(found.items()))
