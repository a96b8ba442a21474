"""Conversations in which the assistant uses its Python tool (arithmetic, counting letters), and spelling.

The tool evaluates one expression of integers with `+ - * //` and brackets, or `'word'.count('x')`.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mccore.data.conversation import Conversation, Part, Split, exchange, split_of
from mccore.data.corpora.stdlib.api import api_modules
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val, topics

DEFAULT_COUNTS = {"train": 8_000, "val": 400, "test": 400}
_MIN_WORD, _MAX_WORD, _MIN_USES = 3, 12, 4

_SPELL = ("Spell the word {word}.", "How do you spell {word}?", "Write {word} letter by letter.", "Spell {word}.")
_COUNT = (
    "How many times does the letter {letter} appear in the word {word}?",
    "How many {letter} are in {word}?",
    "Count the letter {letter} in {word}.",
    "How often does {letter} occur in the word {word}?",
)
_PLAIN = ("What is {said}?", "Compute {said}.", "How much is {said}?", "Calculate {said}.", "{said} = ?")
_SPOKEN = {"+": "plus", "-": "minus", "*": "times", "//": "divided by"}
# (question, expression, reply); {a} and {b} are numbers.
_STORIES = (
    ("A file has {a} blocks of {b} bytes. How many bytes is that?", "{a}*{b}", "That is {r} bytes."),
    ("I read {a} pages on Monday and {b} pages on Tuesday. How many pages is that?", "{a}+{b}", "That is {r} pages."),
    ("A list has {a} items and {b} more are appended. How long is it?", "{a}+{b}", "It has {r} items."),
    ("There are {c} lines in a log and {b} are removed. How many lines are left?", "{c}-{b}", "{r} lines are left."),
    ("{p} tokens are split evenly over {b} workers. How many does each get?", "{p}//{b}", "Each gets {r} tokens."),
    ("A train makes {a} trips a day. How many trips is that in {b} days?", "{a}*{b}", "That is {r} trips."),
)


def arithmetic(split: Split, *, seed: int, limit: int | None) -> Sequence[Conversation]:
    """Sums and little stories, worked out with the tool. An expression belongs to one split, however it is asked."""
    rng = random.Random(f"arithmetic:{seed}:{split}")
    made: list[Conversation] = []
    for question, expression, reply in _problems(rng):
        if split_of(f"arithmetic:{expression}") != split:
            continue
        result = str(evaluate(expression))
        parts = _tool_use(expression, result, reply.format(r=result))
        id = f"arithmetic/{split}/{seed}/{len(made)}"
        made.append(exchange("arithmetic", id, (question, parts), subject=expression, answer=result))
        if len(made) == (limit or DEFAULT_COUNTS[split]):
            break
    return made


def spelling(split: Split, *, seed: int, limit: int | None) -> Sequence[Conversation]:
    """Words of the standard library's prose: spelled letter by letter, or a letter counted with the tool."""
    rng = random.Random(f"spelling:{seed}:{split}")
    pool = words(split)
    made: list[Conversation] = []
    while len(made) < (limit or DEFAULT_COUNTS[split]):
        for word in rng.sample(pool, len(pool)):
            made.append(_spell(word, rng, f"spelling/{split}/{seed}/{len(made)}"))
    return made[: limit or DEFAULT_COUNTS[split]]


def evaluate(expression: str) -> int:
    """The value of an expression of integers, `+ - * //` and brackets; ValueError for anything else."""
    if not re.fullmatch(r"[\d+\-*/() ]+", expression) or "**" in expression:
        raise ValueError(f"not an arithmetic expression: {expression!r}")
    return int(eval(expression, {"__builtins__": {}}))


@lru_cache(maxsize=4)
def words(split: Split) -> tuple[str, ...]:
    """Lower-case words of 3 to 12 letters that occur at least four times in docstrings and language topics, sorted."""
    counts: Counter[str] = Counter()
    for module in api_modules():
        if not in_stdlib_val(group_of(module.name)):
            for found in module.objects:
                counts.update(re.findall(r"(?<![\w.'])[a-z]+(?![\w('])", found.doc))
    for name, text in topics().items():
        if not in_stdlib_val(f"topic:{name}"):
            counts.update(re.findall(r"(?<![\w.'])[a-z]+(?![\w('])", text))
    return tuple(
        sorted(
            word
            for word, uses in counts.items()
            if uses >= _MIN_USES
            and _MIN_WORD <= len(word) <= _MAX_WORD
            and re.search("[aeiouy]", word)
            and split_of(f"word:{word}") == split
        )
    )


def _spell(word: str, rng: random.Random, id: str) -> Conversation:
    if rng.random() < 0.5:
        spelled = ", ".join(word)
        question = rng.choice(_SPELL).format(word=word)
        return exchange("spelling", id, (question, spelled), subject=word, answer=spelled)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    count = word.count(letter)
    times = "once" if count == 1 else "twice" if count == 2 else f"{count} times"
    parts = _tool_use(f"'{word}'.count('{letter}')", str(count), f"The letter {letter} appears {times} in {word}.")
    question = rng.choice(_COUNT).format(word=word, letter=letter)
    return exchange("spelling", id, (question, parts), subject=word, answer=str(count))


def _tool_use(expression: str, output: str, reply: str) -> list[Part]:
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": output},
        {"type": "text", "text": reply},
    ]


def _problems(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """(question, expression, reply with {r} for the result), without end."""
    while True:
        a, b, c = _number(rng), _number(rng), _number(rng)
        shape = rng.randrange(8)
        if shape < 3:
            sign = rng.choice("+-*")
            yield _plain(rng, [str(a), sign, str(b)])
        elif shape == 3:
            divisor = rng.randint(2, 30)
            yield _plain(rng, [str(divisor * a), "//", str(divisor)])
        elif shape == 4:
            first, second = rng.choice("+-"), rng.choice("+-")
            yield _plain(rng, [str(a), first, str(b), second, str(c)])
        elif shape == 5:
            yield _plain(rng, ["(", str(a), rng.choice("+-"), str(b), ")", "*", str(rng.randint(2, 20))])
        else:
            question, expression, reply = rng.choice(_STORIES)
            b = rng.randint(2, 60)
            values = {"a": a, "b": b, "c": b + a, "p": a * b}
            yield question.format(**values), expression.format(**values), reply


def _number(rng: random.Random) -> int:
    return rng.randint(2, 10 ** rng.randint(1, 3) - 1 + 10)


def _plain(rng: random.Random, tokens: list[str]) -> tuple[str, str, str]:
    expression = "".join(tokens)
    shown = " ".join(tokens).replace("//", "/").replace("( ", "(").replace(" )", ")")
    spoken = len(tokens) == 3 and rng.random() < 0.3
    said = f"{tokens[0]} {_SPOKEN[tokens[1]]} {tokens[2]}" if spoken else shown
    template = rng.choice(_PLAIN[:4]) if spoken else rng.choice(_PLAIN)
    return template.format(said=said), expression, f"{shown} = {{r}}"
