"""Words spelled letter by letter, and letters counted with the Python tool (`'word'.count('x')`)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from mccore.data.conversation import Conversation, Split, exchange
from mccore.tasks.judges import last_number, words_of
from mccore.tasks.stdlib.words import DEFAULT_COUNTS, tool_use, words
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_SPELL = ("Spell the word {word}.", "How do you spell {word}?", "Write {word} letter by letter.", "Spell {word}.")
_COUNT = (
    "How many times does the letter {letter} appear in the word {word}?",
    "How many {letter} are in {word}?",
    "Count the letter {letter} in {word}.",
    "How often does {letter} occur in the word {word}?",
)
_TIMES = {"never": "0 times", "once": "1 times", "twice": "2 times"}


class Spelling(FreeAnswers):
    """Words of the standard library's prose."""

    name = "spelling"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        rng = random.Random(f"spelling:{seed}:{split}")
        pool = words(split)
        made: list[Conversation] = []
        while len(made) < (limit or DEFAULT_COUNTS[split]):
            for word in rng.sample(pool, len(pool)):
                made.append(_spell(word, rng, f"spelling/{split}/{seed}/{len(made)}"))
        return made[: limit or DEFAULT_COUNTS[split]]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        """Letters spelled out must be all of them in order; letters counted must be as many, in figures or as once or twice."""
        answer, said = request.answer, response.prose
        if answer.isdigit():
            counted = re.sub(r"\b(never|once|twice)\b", lambda match: _TIMES[match.group()], said)
            correct = last_number(counted) == answer
        else:
            correct = words_of(said) == words_of(answer)
        return Judgement({"correct": float(correct)}, response.shown)


def _spell(word: str, rng: random.Random, id: str) -> Conversation:
    if rng.random() < 0.5:
        spelled = ", ".join(word)
        question = rng.choice(_SPELL).format(word=word)
        return exchange("spelling", id, (question, spelled), subject=word, answer=spelled)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    count = word.count(letter)
    times = "once" if count == 1 else "twice" if count == 2 else f"{count} times"
    parts = tool_use(f"'{word}'.count('{letter}')", str(count), f"The letter {letter} appears {times} in {word}.")
    question = rng.choice(_COUNT).format(word=word, letter=letter)
    return exchange("spelling", id, (question, parts), subject=word, answer=str(count))
