"""A question about a history: what the answer is, and where in the history it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.errors import DataError

Ids = NDArray[np.int64]
Stretch = tuple[int, int]  # tokens [start, stop)


@dataclass(frozen=True)
class HistoryProbe:
    """A history that ends in a question, and its answer behind it: `ids` int64 [n + A], `answer` = A.

    kind, variant: what is asked. size: the length of the history that was asked for. depth: where in the history the answer is
    told, 0 at its start and 1 at its end; None where it is told all over it. told: the stretches of the history that tell it.
    counted: the stretches of the answer that have to be right, counted from its first token.
    """

    kind: str
    variant: str
    size: int
    depth: float | None
    ids: Ids
    answer: int
    told: tuple[Stretch, ...]
    counted: tuple[Stretch, ...]

    @property
    def history(self) -> int:
        """Tokens before the answer (n)."""
        return len(self.ids) - self.answer


class Statement(NamedTuple):
    """Tokens that go into a history at a depth from 0 to 1; `tells`: whether the answer depends on them."""

    depth: float
    ids: Sequence[int]
    tells: bool = True


@dataclass(frozen=True)
class ProbeDraft:
    """What is said, asked and answered, before there is a history. answer: its parts, each with whether it is counted."""

    statements: Sequence[Statement]
    question: Sequence[int]
    answer: Sequence[tuple[Sequence[int], bool]]
    depth: float | None


class Asked(NamedTuple):
    """What is asked, in a history of how many tokens."""

    kind: str
    variant: str
    size: int


def placed(draft: ProbeDraft, about: Asked, text: NDArray[Any]) -> HistoryProbe:
    """The draft in a history of exactly `about.size` tokens, the rest of them from the start of `text` [m].

    Raises DataError where the history is too short for what is said in it, or the text for the history.
    """
    statements = sorted(draft.statements, key=lambda statement: statement.depth)  # those of one depth keep their order
    room = about.size - len(draft.question) - sum(len(statement.ids) for statement in statements)
    if room < 0 or room > len(text):
        raise DataError(
            f"{about.kind} needs a history of {about.size - min(room, 0):,} tokens at least, and text for it",
            hint="ask in longer histories, or of a corpus with more text",
        )
    parts: list[NDArray[Any]] = []
    told: list[Stretch] = []
    begin = length = 0
    for statement in statements:
        at = round(statement.depth * room)
        parts += [text[begin:at], np.asarray(statement.ids)]
        length += at - begin + len(statement.ids)
        if statement.tells:
            told.append((length - len(statement.ids), length))
        begin = at
    parts += [text[begin:room], np.asarray(draft.question)]
    counted: list[Stretch] = []
    answered = 0
    for ids, counts in draft.answer:
        parts.append(np.asarray(ids))
        answered += len(ids)
        if counts:
            counted.append((answered - len(ids), answered))
    whole = np.concatenate(parts).astype(np.int64)
    return HistoryProbe(*about, draft.depth, whole, answered, tuple(told), tuple(counted))
