"""Questions and answers about the standard library, made from its docstrings."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mccore.data.conversation import Conversation, Split, exchange, split_of
from mccore.data.corpora.stdlib.api import ApiObject
from mccore.tasks.choice import letter_conversation
from mccore.tasks.judges import judge_contained
from mccore.tasks.stdlib.choice import StdlibChoice
from mccore.tasks.stdlib.subjects import module_subjects, subjects
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_MAX_CALL = 90

_DESCRIBE = (
    "What does {name} do?",
    "What is {name} for?",
    "Explain {name} in one sentence.",
    "Describe {name}.",
    "Can you tell me what {name} does?",
    "What is the purpose of {name}?",
)
_MODULE = (
    "Which module defines {last}?",
    "Which module does {last} belong to?",
    "Where is {last} defined?",
    "From which module can I import {last}?",
    "In which module do I find {last}?",
)
_NAME = (
    "Which {kind} is described like this? {summary}",
    "What is the name of this {kind}? {summary}",
    "Name the {kind}: {summary}",
    "Which {kind} of the standard library fits? {summary}",
)
_CALL = (
    "How do I call {name}?",
    "What are the parameters of {name}?",
    "What is the signature of {name}?",
    "Which arguments does {name} take?",
)
_THEN_MODULE = ("Which module defines it?", "Where is it defined?", "Which module is that in?")
_THEN_CALL = ("How do I call it?", "What are its parameters?")


class StdlibQA(FreeAnswers):
    """Every question there is about the subjects of a split, and multiple choice answered by a letter.

    Letters are for training alone: as requests they are `StdlibChoice`'s.
    """

    name = "stdlib_qa"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        """Each question in one wording that `seed` chooses, shuffled."""
        made: list[Conversation] = []
        for found in subjects(split):
            made += _conversations_about(found, random.Random(f"stdlib_qa:{seed}:{found.name}"))
        made += [letter_conversation(self.name, question) for question in StdlibChoice().questions(split, seed=seed)]
        random.Random(f"stdlib_qa:{seed}").shuffle(made)
        return made[:limit]

    def requests(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[GenerationRequest]:
        free = [request for request in super().requests(split, seed=seed) if request.kind != "mc"]
        return free[:limit]

    def kind_of(self, conversation: Conversation) -> str:
        return conversation["id"].split("/")[1]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_contained(request, response)


def _conversations_about(found: ApiObject, rng: random.Random) -> Iterator[Conversation]:
    name, last = found.name, found.last_name
    values = {"name": name, "last": last, "kind": found.kind, "summary": found.summary}

    def ask(templates: tuple[str, ...]) -> str:
        return rng.choice(templates).format(**values)

    def make(kind: str, *turns: tuple[str, str], answer: str) -> Conversation:
        return exchange("stdlib_qa", f"stdlib_qa/{kind}/{name}", *turns, subject=name, answer=answer)

    where = f"{last} is defined in the module {found.module}."
    call = f"{name}{found.signature}"
    has_home = found in _module_subject_set(split_of(name))
    has_call = found.signature != "(...)" and len(call) <= _MAX_CALL and found.kind != "class"
    yield make("describe", (ask(_DESCRIBE), found.summary), answer=found.summary)
    yield make("name", (ask(_NAME), f"That is {name}."), answer=name)
    if has_home:
        yield make("module", (ask(_MODULE), where), answer=found.module)
        yield make(
            "then_module", (ask(_DESCRIBE), found.summary), (rng.choice(_THEN_MODULE), where), answer=found.module
        )
    if has_call:
        yield make("call", (ask(_CALL), call), answer=call)
        yield make("then_call", (ask(_NAME), f"That is {name}."), (rng.choice(_THEN_CALL), call), answer=call)


@lru_cache(maxsize=4)
def _module_subject_set(split: Split) -> frozenset[ApiObject]:
    return frozenset(module_subjects(split))
