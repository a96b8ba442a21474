"""Multiple choice about the standard library: kinds `describe`, `module` and `name`.

Subjects, right answers and distractors are all objects of the split. Questions come in groups of four that share their choices,
each choice being right once: whoever looks at the choices only, by length, position or style, gets a quarter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from mccore.data.conversation import Split, check_conversation_split
from mccore.data.corpora.stdlib.api import ApiObject
from mccore.tasks.choice import ChoiceTask, MultipleChoice, Phrasing
from mccore.tasks.stdlib.subjects import lexical_overlap, module_subjects, subjects

# The wording of the replies that the same questions have in training (mccore.tasks.stdlib.qa).
PHRASINGS: dict[str, Phrasing] = {
    "describe": Phrasing("{choice}", "What does it do?", "{choice}"),
    "name": Phrasing("That is {choice}.", "Which one is it?", "That is {choice}."),
    "module": Phrasing(
        "{last} is defined in the module {choice}.", "Where is it defined?", "It is defined in the module {choice}."
    ),
}


class StdlibChoice(ChoiceTask):
    """A limit that isn't a multiple of four cuts the last group of questions."""

    name = "stdlib_choice"

    def questions(self, split: Split, *, seed: int = 0, limit: int | None = None) -> list[MultipleChoice]:
        check_conversation_split(split)
        rng = random.Random(f"multiple_choice:{seed}")
        pool = subjects(split)
        quads: list[list[MultipleChoice]] = []
        for kind in ("function", "class", "method"):
            members = [found for found in pool if found.kind == kind]
            for quad in _quads(members, lambda found: found.last_name, rng):
                quads.append(_questions("describe", quad, _describe_question, lambda found: found.summary, rng))
            for quad in _quads(members, lambda found: found.last_name, rng):
                quads.append(_questions("name", quad, _name_question, lambda found: found.name, rng))
        homes = module_subjects(split)
        for quad in _quads(homes, lambda found: found.module, rng):
            quads.append(_questions("module", quad, _module_question, lambda found: found.module, rng))
        rng.shuffle(quads)
        questions = [question for quad in quads for question in quad][:limit]
        rng.shuffle(questions)
        return questions

    def phrasing(self, kind: str) -> Phrasing:
        return PHRASINGS[kind]


def _quads(members: Sequence[ApiObject], key: Callable[[ApiObject], str], rng: random.Random) -> list[list[ApiObject]]:
    """Random groups of four with four different keys; members that can't be placed are left out.

    Sorted by key, the members are dealt out like cards: those with the same key fall into different groups as long as there
    are no more of them than groups.
    """
    dealt = rng.sample(list(members), len(members))
    while True:
        count = len(dealt) // 4
        seen: Counter[str] = Counter()
        kept = []
        for member in dealt:
            seen[key(member)] += 1
            if seen[key(member)] <= count:
                kept.append(member)
        if len(kept) == len(dealt):
            break
        dealt = kept
    frequency = Counter(key(member) for member in dealt)
    dealt.sort(key=lambda member: (-frequency[key(member)], key(member) if frequency[key(member)] > 1 else ""))
    return [dealt[start : 4 * count : count] for start in range(count)]


def _questions(
    kind: str,
    quad: list[ApiObject],
    ask: Callable[[ApiObject], str],
    choice_of: Callable[[ApiObject], str],
    rng: random.Random,
) -> list[MultipleChoice]:
    """One question per member. The choices are the whole group, each time in another order, and each position is right once."""
    questions = []
    for position, found in enumerate(rng.sample(quad, 4)):
        order = rng.sample([member for member in quad if member is not found], 3)
        order.insert(position, found)
        right = found.name if kind != "module" else found.qualname
        other = found.summary if kind != "module" else found.module
        questions.append(
            MultipleChoice(
                id=f"mc/{kind}/{found.name}",
                question=ask(found),
                choices=tuple(choice_of(member) for member in order),
                answer=position,
                subject=found.name,
                kind=kind,
                lexical_overlap=lexical_overlap(right, other),
            )
        )
    return questions


def _describe_question(found: ApiObject) -> str:
    return f"What does {found.name} do?" if found.kind != "class" else f"What is {found.name}?"


def _module_question(found: ApiObject) -> str:
    return f"Which module defines {found.last_name}?"


def _name_question(found: ApiObject) -> str:
    return f"Which {found.kind} is described like this? {found.summary}"
