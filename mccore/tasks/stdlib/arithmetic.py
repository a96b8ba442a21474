"""Sums and little stories, worked out with the Python tool.

The tool evaluates one expression of integers with `+ - * //` and brackets.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from mccore.data.conversation import Conversation, Split, exchange, split_of
from mccore.tasks.judges import judge_number
from mccore.tasks.stdlib.words import DEFAULT_COUNTS, tool_use
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

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


class Arithmetic(FreeAnswers):
    """An expression belongs to one split, however it is asked."""

    name = "arithmetic"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        rng = random.Random(f"arithmetic:{seed}:{split}")
        made: list[Conversation] = []
        for question, expression, reply in _problems(rng):
            if split_of(f"arithmetic:{expression}") != split:
                continue
            result = str(evaluate(expression))
            parts = tool_use(expression, result, reply.format(r=result))
            id = f"arithmetic/{split}/{seed}/{len(made)}"
            made.append(exchange("arithmetic", id, (question, parts), subject=expression, answer=result))
            if len(made) == (limit or DEFAULT_COUNTS[split]):
                break
        return made

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_number(request, response)


def evaluate(expression: str) -> int:
    """The value of an expression of integers, `+ - * //` and brackets; ValueError for anything else."""
    if not re.fullmatch(r"[\d+\-*/() ]+", expression) or "**" in expression:
        raise ValueError(f"not an arithmetic expression: {expression!r}")
    return int(eval(expression, {"__builtins__": {}}))


def _problems(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """(question, expression, reply with {r} for the result), without end."""
    while True:
        a, b, c = _draw_number(rng), _draw_number(rng), _draw_number(rng)
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


def _draw_number(rng: random.Random) -> int:
    return rng.randint(2, 10 ** rng.randint(1, 3) - 1 + 10)


def _plain(rng: random.Random, tokens: list[str]) -> tuple[str, str, str]:
    expression = "".join(tokens)
    shown = " ".join(tokens).replace("//", "/").replace("( ", "(").replace(" )", ")")
    spoken = len(tokens) == 3 and rng.random() < 0.3
    said = f"{tokens[0]} {_SPOKEN[tokens[1]]} {tokens[2]}" if spoken else shown
    template = rng.choice(_PLAIN[:4]) if spoken else rng.choice(_PLAIN)
    return template.format(said=said), expression, f"{shown} = {{r}}"
