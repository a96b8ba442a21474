"""Letters of words: SpellingBee (count a letter, by hand and with Python) and SimpleSpelling (spell a word).

Worded as nanochat's models learned them. Words are those of the standard library's prose, each in one split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mccore.data.conversation import Conversation, Part, Split, exchange
from mccore.tasks.benchmarks.free import judge_final
from mccore.tasks.judges import words_of
from mccore.tasks.stdlib.words import DEFAULT_COUNTS, words
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_ASKED = (
    "How many {letter} are in the word {word}", "How many {letter} are in {word}", "Count the number of {letter} in {word}",
    "How many times does {letter} appear in {word}", "What's the count of {letter} in {word}",
    "In the word {word}, how many {letter} are there", "Count how many {letter} appear in {word}",
    "Tell me the number of {letter} in {word}", "How many occurrences of {letter} are in {word}",
    "Can you count the {letter} letters in {word}", "How many {letter}s are in {word}", "Count all the {letter} in {word}",
    "How many {letter} does {word} have", "In {word}, count the {letter}", "How many instances of {letter} in {word}",
    "¿Cuántas {letter} hay en {word}?", "{word}中有多少个{letter}", "{word}에 {letter}가 몇 개 있나요",
    "Combien de {letter} dans {word}", "Wie oft kommt {letter} in {word} vor", "{word}に{letter}は何個ありますか",
)  # fmt: skip
_QUOTES = ("", "'", '"')


class SpellingBee(FreeAnswers):
    """How often is a letter in a word? Counted by hand, then checked with Python; the answer stands after `####`."""

    name = "spelling_bee"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        rng, pool = random.Random(f"spelling_bee:{seed}:{split}"), words(split)
        return [
            _count(rng.choice(pool), rng, f"spelling_bee/{split}/{seed}/{number}")
            for number in range(limit or DEFAULT_COUNTS[split])
        ]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_final(request, response)


def _count(word: str, rng: random.Random, id: str) -> Conversation:
    letter = rng.choice(word) if rng.random() < 0.9 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    template = rng.choice(_ASKED)
    if rng.random() < 0.3:
        template = template.lower()
    around, inside = rng.choice(_QUOTES), rng.choice(_QUOTES)
    question = template.format(letter=f"{around}{letter}{around}", word=f"{inside}{word}{inside}")
    if rng.random() < 0.5:
        question += "?"
    turn = (question, _counting(word, letter))
    return exchange("spelling_bee", id, turn, subject=word, answer=str(word.count(letter)))


def _counting(word: str, letter: str) -> list[Part]:
    lines, seen = [], 0
    for place, char in enumerate(word, 1):
        seen += char == letter
        # No space before the letter: it would be another token.
        lines.append(f"{place}:{char} hit! count={seen}" if char == letter else f"{place}:{char}")
    by_hand = (
        f"We are asked to find the number '{letter}' in the word '{word}'. Let me try a manual approach first.\n\n"
        f"First spell the word out:\n{word}:{','.join(word)}\n\nThen count the occurrences of '{letter}':\n"
        + "\n".join(lines)
        + f"\n\nThis gives us {seen}.\n\nLet me double check this using Python:\n\n"
    )
    return [
        {"type": "text", "text": by_hand},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": str(seen)},
        {"type": "text", "text": f"\n\nPython gives us {seen}.\n\nMy final answer is:\n\n#### {seen}"},
    ]


class SimpleSpelling(FreeAnswers):
    """Spell a word."""

    name = "simple_spelling"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        rng, pool = random.Random(f"simple_spelling:{seed}:{split}"), words(split)
        made = []
        for number in range(limit or DEFAULT_COUNTS[split]):
            word = rng.choice(pool)
            turn = (f"Spell the word: {word}", f"{word}:{','.join(word)}")
            made.append(exchange(self.name, f"{self.name}/{split}/{seed}/{number}", turn, subject=word))
        return made

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        """`correct`: all letters, in order."""
        return Judgement({"correct": float(words_of(response.prose) == words_of(request.right_reply))}, response.shown)
