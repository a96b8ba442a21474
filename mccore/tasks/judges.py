"""Ways to judge free answers, from which a task takes its own."""

from __future__ import annotations

import re
from collections import Counter

from mccore.tasks.task import GenerationRequest, Judgement, Response

_NUMERAL = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def judge_contained(request: GenerationRequest, response: Response) -> Judgement:
    """`correct`: the reply says the answer, as whole words. `exact`: it is the known reply but for case and punctuation.
    `f1`: overlap of its words with that reply's."""
    said, right = response.prose, request.right_reply
    scores = {
        "correct": float(says(said, request.answer)),
        "exact": float(words_of(said) == words_of(right)),
        "f1": token_f1(said, right),
    }
    return Judgement(scores, response.shown)


def judge_number(request: GenerationRequest, response: Response) -> Judgement:
    """`correct`: the last number of the reply is the answer. `tool`: the right result came out of the tool."""
    answer = request.answer
    outputs = [part.text.strip() for part in response.parts if part.type == "python_output"]
    scores = {"correct": float(last_number(response.prose) == answer), "tool": float(answer in outputs)}
    return Judgement(scores, response.shown)


def last_number(text: str) -> str | None:
    """The last number of a text without its thousands' commas; None where there is none.

    >>> last_number("2 of 1,250."), last_number("none")
    ('1250', None)
    """
    numbers = _NUMERAL.findall(text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else None


def says(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as whole words; runs of white space and a final full stop don't count."""
    answer = " ".join(answer.split()).removesuffix(".")
    if not answer:
        return False
    before = r"(?<![\w.])" if answer[0].isalnum() or answer[0] == "_" else ""
    after = r"(?!\w|\.\w)" if answer[-1].isalnum() or answer[-1] == "_" else ""
    return re.search(before + re.escape(answer) + after, " ".join(text.split())) is not None


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def token_f1(said: str, right: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common, repeated words counted as often as both have
    them (SQuAD, arXiv 1606.05250)."""
    first, second = Counter(words_of(said)), Counter(words_of(right))
    common = sum((first & second).values())
    return 2 * common / (first.total() + second.total()) if common else 0.0
