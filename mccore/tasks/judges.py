"""How the answers of a task are judged.

A scorer is a function from (conversation, what the model said) to named scores of 0 to 1, of which `correct` decides. Add
one to SCORERS, or pass `scorers` to the evaluation, for a benchmark of your own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from mccore.data.conversation import Conversation
from mccore.data.tokenizer.reply import Piece, prose

Scorer = Callable[[Conversation, Sequence[Piece]], dict[str, float]]

_TIMES = {"never": "0 times", "once": "1 times", "twice": "2 times"}

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


# --- judging ----------------------------------------------------------------------------------------------------------


def right_reply(conversation: Conversation) -> str:
    """The prose of the reply that a conversation ends with."""
    content = conversation["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def score_contained(conversation: Conversation, parts: Sequence[Piece]) -> dict[str, float]:
    """`correct`: the reply says the answer, as whole words. `exact`: it is the known reply but for case and punctuation.
    `f1`: overlap of its words with that reply's."""
    said, right = prose(parts), right_reply(conversation)
    return {
        "correct": float(says(said, conversation.get("answer", right))),
        "exact": float(words_of(said) == words_of(right)),
        "f1": token_f1(said, right),
    }


def score_number(conversation: Conversation, parts: Sequence[Piece]) -> dict[str, float]:
    """`correct`: the last number of the reply is the answer. `tool`: the right result came out of the tool."""
    answer = conversation.get("answer", "")
    numbers = _NUMBER.findall(prose(parts))
    outputs = [part.text.strip() for part in parts if part.type == "python_output"]
    return {
        "correct": float(bool(numbers) and numbers[-1].replace(",", "").rstrip(".") == answer),
        "tool": float(answer in outputs),
    }


def score_spelling(conversation: Conversation, parts: Sequence[Piece]) -> dict[str, float]:
    """Letters spelled out must be all of them in order; letters counted must be as many, in figures or as once or twice."""
    answer = conversation.get("answer", "")
    if not answer.isdigit():
        return {"correct": float(words_of(prose(parts)) == words_of(answer))}
    said = re.sub(r"\b(never|once|twice)\b", lambda match: _TIMES[match.group()], prose(parts))
    return {"correct": score_number(conversation, [Piece("text", said)])["correct"]}


SCORERS: dict[str, Scorer] = {
    "arithmetic": score_number,
    "spelling": score_spelling,
    "needle": score_contained,
    "stdlib_qa": score_contained,
}


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
