"""Questions that are made up: needles, associations, copies, variables, counts, and what was said anew.

Names and numbers are fresh in every history, so no model can know them from its training. Each piece of text is tokenized by
itself, so that what is asked begins with the very tokens that were told.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.eval.context.probes.probe import Asked, HistoryProbe, ProbeDraft, Statement, placed

Encode = Callable[[str], Sequence[int]]

DISTRACTORS = 7  # other keys, or variables, of the same form
VALUES = 3  # of a key that has several
CHAIN = 4  # variables from a number to the one that is asked
VOTES = (10, 5, 3, 2)  # for each of the words that are counted
COPIED, SHOWN = 8, 2  # words of a passage, and how many of them are given
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Writer:
    """Fresh names and numbers, and texts as tokens."""

    def __init__(self, encode: Encode, rng: np.random.Generator) -> None:
        self._encode, self.rng = encode, rng
        self._used: set[str] = set()

    def ids(self, *parts: str) -> list[int]:
        """The tokens of each part, one after another."""
        return [token for part in parts for token in self._encode(part)]

    def name(self) -> str:
        """A word that nobody has used."""
        while True:
            letters = self.rng.integers([len(_CONSONANTS), len(_VOWELS)] * 3)
            word = "".join((_CONSONANTS, _VOWELS)[place % 2][letter] for place, letter in enumerate(letters))
            if word not in self._used:
                self._used.add(word)
                return word

    def number(self) -> str:
        """Five digits."""
        return str(self.rng.integers(10_000, 100_000))

    def code(self, key: str, value: str, depth: float, *, tells: bool = True) -> Statement:
        """A sentence that says the code of a key."""
        return Statement(depth, self.ids(f"\nThe code of {key} is", f" {value}", ".\n"), tells)

    def ask_code(self, key: str) -> list[int]:
        """The question for it, up to where the answer comes."""
        return self.ids(f"\nWhat is the code of {key}?", f"\nThe code of {key} is")

    def depth(self) -> float:
        """Anywhere."""
        return float(self.rng.random())


def _needle(writer: Writer, depth: float) -> ProbeDraft:
    key, value = writer.name(), writer.number()
    return ProbeDraft([writer.code(key, value, depth)], writer.ask_code(key), [(writer.ids(f" {value}"), True)], depth)


def _multi_key(writer: Writer, depth: float) -> ProbeDraft:
    draft = _needle(writer, depth)
    others = [writer.code(writer.name(), writer.number(), writer.depth(), tells=False) for _ in range(DISTRACTORS)]
    return ProbeDraft([*draft.statements, *others], draft.question, draft.answer, depth)


def _multi_value(writer: Writer, depth: float) -> ProbeDraft:
    """All values, in the order in which they were said."""
    key, values = writer.name(), [writer.number() for _ in range(VALUES)]
    told = [writer.code(key, value, depth + (1 - depth) * place / VALUES) for place, value in enumerate(values)]
    answer: list[tuple[Sequence[int], bool]] = []
    for place, value in enumerate(values):
        if place:
            answer.append((writer.ids(","), False))
        answer.append((writer.ids(f" {value}"), True))
    question = writer.ids(f"\nWhat are the codes of {key}?", f"\nIn order, the codes of {key} are")
    return ProbeDraft(told, question, answer, depth)


def _associative(pairs: int) -> Callable[[Writer, float], ProbeDraft]:
    def draft(writer: Writer, depth: float) -> ProbeDraft:
        made = [(writer.name(), writer.number()) for _ in range(pairs)]
        asked = int(writer.rng.integers(pairs))
        told = [
            Statement(depth, writer.ids(f"\n{key}:", f" {value}"), place == asked)
            for place, (key, value) in enumerate(made)
        ]
        key, value = made[asked]
        return ProbeDraft(told, writer.ids(f"\n{key}:"), [(writer.ids(f" {value}"), True)], depth)

    return draft


def _copy(writer: Writer, depth: float) -> ProbeDraft:
    words = [f" {writer.name()}" for _ in range(COPIED)]
    told = Statement(depth, writer.ids("\nNote:", *words, ".\n"))
    answer = [(writer.ids(word), True) for word in words[SHOWN:]]
    return ProbeDraft([told], writer.ids("\nNote:", *words[:SHOWN]), answer, depth)


def _variables(writer: Writer, depth: float) -> ProbeDraft:
    """A number that is handed on from one variable to the next, beside another such chain."""

    def chain(first: float, *, tells: bool) -> tuple[list[Statement], str, str]:
        names, value = [writer.name() for _ in range(CHAIN)], writer.number()
        given = [value, *names]
        told = [
            Statement(first + (1 - first) * place / CHAIN, writer.ids(f"\n{name} =", f" {given[place]}", "\n"), tells)
            for place, name in enumerate(names)
        ]
        return told, names[-1], value

    told, name, value = chain(depth, tells=True)
    others, _, _ = chain(writer.depth(), tells=False)
    question = writer.ids(f"\nThe number that {name} has in the end is")
    return ProbeDraft([*told, *others], question, [(writer.ids(f" {value}"), True)], depth)


def _aggregation(writer: Writer, depth: float) -> ProbeDraft:
    """Which word comes most often, anywhere."""
    words = [writer.name() for _ in VOTES]
    told = [
        Statement(writer.depth(), writer.ids("\nOne vote for", f" {word}", ".\n"), place == 0)
        for place, (word, votes) in enumerate(zip(words, VOTES, strict=True))
        for _ in range(votes)
    ]
    question = writer.ids("\nWho has the most votes?", "\nOne vote for")
    return ProbeDraft(told, question, [(writer.ids(f" {words[0]}"), True)], None)


def _updated(writer: Writer, depth: float) -> ProbeDraft:
    """What was said last of something that was said before."""
    key, old, new = writer.name(), writer.number(), writer.number()
    told = [writer.code(key, old, depth / 2, tells=False), writer.code(key, new, depth)]
    return ProbeDraft(told, writer.ask_code(key), [(writer.ids(f" {new}"), True)], depth)


class ProbeKind(NamedTuple):
    """A kind of question, its variant, and what makes one for a depth."""

    name: str
    variant: str
    draft: Callable[[Writer, float], ProbeDraft]


PAIRS = (4, 16, 64)
KINDS = (
    ProbeKind("needle", "single", _needle),
    ProbeKind("needle", "multi-key", _multi_key),
    ProbeKind("needle", "multi-value", _multi_value),
    ProbeKind("needle", "updated", _updated),
    *(ProbeKind("associative", f"{pairs} pairs", _associative(pairs)) for pairs in PAIRS),
    ProbeKind("copy", "", _copy),
    ProbeKind("variables", "", _variables),
    ProbeKind("aggregation", "", _aggregation),
)


def depths(count: int) -> list[float]:
    """Evenly over a history, none at its ends."""
    return [(place + 0.5) / count for place in range(count)]


def draw_probes(
    encode: Encode, text: NDArray[Any], sizes: Sequence[int], at: Sequence[float], seed: int = 0
) -> Iterator[HistoryProbe]:
    """Every kind of question in histories of these sizes, at these depths; the same seed asks the same questions.

    text: tokens [m] that histories are filled with, from a random place on and over its end to its start. Raises DataError for
    a size that is too small for a kind.
    """
    for size in sizes:
        for kind in KINDS:
            for number, depth in enumerate(at):
                key = zlib.crc32(f"{kind.name} {kind.variant}".encode())
                rng = np.random.default_rng([seed, size, key, number])
                filler = np.take(text, int(rng.integers(len(text))) + np.arange(size), mode="wrap")
                yield placed(kind.draft(Writer(encode, rng), depth), Asked(kind.name, kind.variant, size), filler)
