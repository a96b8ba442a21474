"""Questions about a fact inside a pasted piece of a standard-library file; the answer stands in the paste.

Training pastes come from files of the corpus's training split, validation and test pastes from its validation split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mccore.data.conversation import Conversation, Split, exchange
from mccore.data.corpora.document import hash_share
from mccore.data.corpora.stdlib.sources import SourceFile, group_of, in_stdlib_val, source_files
from mccore.tasks.judges import judge_contained
from mccore.tasks.stdlib.words import words
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

MAX_PASTE = 480  # characters: with question and reply it fits into 256 tokens of a small vocabulary
_MIN_PASTE = 150
_PLANTED_SHARE = 0.4  # makes planted and natural facts about equally frequent

_VALUE = r"-?\d[\d_]*(?:\.\d+)?|0x[0-9a-fA-F]+|'[^'\\\n]{1,20}'|\"[^\"\\\n]{1,20}\"|True|False|None"
_DEF = re.compile(r"^[ \t]*(?:async )?def (\w+)\(([^()\n]*)\)", re.M)
_DEFAULT = re.compile(rf"(?:^|, )(\w+)=({_VALUE})(?=,|$)")
_CONSTANT = re.compile(rf"^[ \t]*([A-Z_]\w*) = ({_VALUE})[ \t]*(?:#.*)?$", re.M)
_CLASS = re.compile(r"^[ \t]*class (\w+)\(([\w.]+)\):", re.M)


@dataclass(frozen=True)
class Fact:
    """Something a paste says: two wordings of the question, the whole reply, and the part of it that is the answer."""

    kind: str
    questions: tuple[str, str]
    reply: str
    answer: str


class Needle(FreeAnswers):
    """Questions about pieces of files: a default, a constant, a base class, parameters, or a planted sentence.

    A piece gives one question about what it says, where it says something of the kind, and often one about a planted sentence.
    """

    name = "needle"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        made = []
        for path, number, piece, found in _pieces_of(split):
            subject = f"{path}#{number}"
            rng = random.Random(f"needle:{seed}:{subject}")
            for paste, fact in _asked(piece, found, split, rng):
                question = f"Here is a part of {path}:\n\n{paste}\n\n{rng.choice(fact.questions)}"
                id = f"needle/{fact.kind}/{subject}"
                made.append(exchange("needle", id, (question, fact.reply), subject=subject, answer=fact.answer))
        random.Random(f"needle:{seed}").shuffle(made)
        return made[:limit]

    def kind_of(self, conversation: Conversation) -> str:
        return conversation["id"].split("/")[1]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_contained(request, response)


@lru_cache(maxsize=3)
def _pieces_of(split: Split) -> tuple[tuple[str, int, str, tuple[Fact, ...]], ...]:
    """(path, number, text, facts) of every piece of `split`."""
    return tuple(
        (file.path, number, piece, tuple(facts(piece)))
        for file in source_files()
        if in_stdlib_val(group_of(file.module)) == (split != "train")
        for number, piece in enumerate(_pieces(file))
        if split == "train" or _held_out_split(f"{file.path}#{number}") == split
    )


def facts(paste: str) -> Iterator[Fact]:
    """What can be asked about `paste`: names that occur in one definition only, so that there is one right answer."""
    defs = list(_DEF.finditer(paste))
    for match in defs:
        name, parameters = match.groups()
        if len(re.findall(rf"\bdef {name}\b", paste)) > 1:
            continue
        for parameter, value in _DEFAULT.findall(parameters):
            yield Fact(
                "default",
                (
                    f"What is the default value of {parameter} in {name}?",
                    f"Which default does the parameter {parameter} of {name} have?",
                ),
                f"The default value of {parameter} is {value}.",
                value,
            )
        plain = [p.strip() for p in parameters.split(",") if p.strip() not in ("self", "cls", "")]
        if 2 <= len(plain) <= 5 and all(re.fullmatch(r"\*{0,2}\w+", p) for p in plain):
            listed = ", ".join(plain)
            yield Fact(
                "parameters",
                (f"What are the parameters of {name}?", f"Which parameters does {name} take?"),
                f"The parameters are {listed}.",
                listed,
            )
    for name, value in _CONSTANT.findall(paste):
        assigned = re.findall(rf"\b{name}\b\s*(?:[-+*/|&]?=)(?!=)", paste)
        if len(assigned) == 1 and value.strip("'\"") != name:
            yield Fact(
                "constant", (f"What is the value of {name}?", f"What is {name} set to?"), f"{name} is {value}.", value
            )
    for name, base in _CLASS.findall(paste):
        if base != "object" and len(re.findall(rf"\bclass {name}\b", paste)) == 1:
            yield Fact(
                "base",
                (f"Which class does {name} inherit from?", f"What is the base class of {name}?"),
                f"{name} inherits from {base}.",
                base,
            )


def _held_out_split(subject: str) -> Split:
    # `split_of` sends most subjects to train; the pieces of validation files are halved instead.
    return "test" if hash_share(f"needle:{subject}") < 0.5 else "val"


def _pieces(file: SourceFile) -> Iterator[str]:
    """Consecutive pieces of whole lines, none longer than MAX_PASTE; pieces that are too short or too wide are dropped."""
    piece: list[str] = []
    size = 0
    for line in file.text.splitlines():
        if size + len(line) + 1 > MAX_PASTE:
            if size >= _MIN_PASTE:
                yield "\n".join(piece).strip("\n")
            piece, size = [], 0
        if len(line) < MAX_PASTE:
            piece.append(line)
            size += len(line) + 1
    if size >= _MIN_PASTE:
        yield "\n".join(piece).strip("\n")


def _asked(piece: str, found: Sequence[Fact], split: Split, rng: random.Random) -> Iterator[tuple[str, Fact]]:
    telling = [fact for fact in found if fact.answer not in ("None", "True", "False")]
    if telling and rng.random() < 0.8:
        found = telling
    if found:
        kind = rng.choice(sorted({fact.kind for fact in found}))
        yield piece, rng.choice([fact for fact in found if fact.kind == kind])
    if rng.random() < _PLANTED_SHARE:
        yield _plant(piece, split, rng)


def _plant(paste: str, split: Split, rng: random.Random) -> tuple[str, Fact]:
    pool = words(split)
    thing, value = rng.sample(pool, 2)
    while re.search(rf"\b{thing}\b", paste):
        thing = rng.choice([word for word in pool if word != value])
    lines = paste.split("\n")
    lines.insert(rng.randint(0, len(lines)), f"# The code word for {thing} is {value}.")
    return "\n".join(lines), Fact(
        "planted",
        (f"What is the code word for {thing}?", f"Which code word does {thing} have?"),
        f"The code word for {thing} is {value}.",
        value,
    )
