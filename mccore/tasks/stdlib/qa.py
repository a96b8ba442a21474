"""Questions and answers about the standard library, made from its docstrings.

Subjects come only from modules in the corpus's training split: a held-out question then asks for a fact the model has read but
was never asked about, and no validation text reaches a model by way of its conversations.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from mccore.data.conversation import Conversation, Split, exchange, split_of
from mccore.data.corpora.stdlib.api import ApiObject, api_modules
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val
from mccore.tasks.task import LETTERS, MultipleChoice, render_multiple_choice

# Widgets, parsers' plumbing and implementation modules: hundreds of methods that nobody asks about by name.
_NOT_ASKED = re.compile(
    r"^(tkinter|turtle|pydoc|pickletools|pdb|bdb|smtpd|site|opcode|pyclbr|pstats|wsgiref|sre_\w+|xml\.(dom|sax)\b.*"
    r"|asyncio\.\w+|unittest\.(?!mock)\w+|json\.\w+|ctypes\.macholib.*|curses\.\w+|logging\.config"
    r"|email\.(base64mime|quoprimime|feedparser|generator|headerregistry|errors|contentmanager|mime\..*)"
    r"|importlib\.(readers|simple|resources\.\w+)|concurrent\.futures\.\w+|unittest\.\w+_\w+"
    r"|multiprocessing\.(?!connection|managers|pool|shared_memory|sharedctypes)\w+)(\..*)?$"
)
_MAX_CALL = 90
_COMMON_WORDS = frozenset(
    {"from", "into", "that", "this", "with", "when", "then", "each", "used", "have", "will", "only"}
)

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


@lru_cache(maxsize=4)
def subjects(split: Split) -> tuple[ApiObject, ...]:
    """The objects that questions of `split` are about, sorted by name.

    Each has a description of one sentence that no other object shares; of `random.choice` and `random.Random.choice`, which do
    share it, the shorter stands for both.
    """
    told = [found for module in api_modules() for found in module.objects if found.summary]
    owners: dict[str, list[ApiObject]] = defaultdict(list)
    for found in told:
        owners[_normal(found.summary)].append(found)
    chosen = []
    for same in owners.values():
        if len({(found.module, found.last_name) for found in same}) > 1:
            continue
        found = min(same, key=lambda found: (len(found.qualname), found.qualname))
        if _is_asked(found) and split_of(found.name) == split:
            chosen.append(found)
    return tuple(sorted(chosen, key=lambda found: found.name))


def stdlib_qa(split: Split, *, seed: int, limit: int | None) -> Sequence[Conversation]:
    """Every question there is about the subjects of `split`, each in one wording that `seed` chooses, shuffled."""
    made: list[Conversation] = []
    for found in subjects(split):
        made += _conversations_about(found, random.Random(f"stdlib_qa:{seed}:{found.name}"))
    made += [_letter_conversation(question) for question in build_multiple_choice(split, seed=seed, limit=None)]
    random.Random(f"stdlib_qa:{seed}").shuffle(made)
    return made[:limit]


def build_multiple_choice(split: Split, *, seed: int, limit: int | None) -> list[MultipleChoice]:
    """See `conversations.multiple_choice_questions`."""
    rng = random.Random(f"multiple_choice:{seed}")
    pool = subjects(split)
    quads: list[list[MultipleChoice]] = []
    for kind in ("function", "class", "method"):
        members = [found for found in pool if found.kind == kind]
        for quad in _quads(members, lambda found: found.last_name, rng):
            quads.append(_questions("describe", quad, _describe_question, lambda found: found.summary, rng))
        for quad in _quads(members, lambda found: found.last_name, rng):
            quads.append(_questions("name", quad, _name_question, lambda found: found.name, rng))
    homes = _module_subjects(split)
    for quad in _quads(homes, lambda found: found.module, rng):
        quads.append(_questions("module", quad, _module_question, lambda found: found.module, rng))
    rng.shuffle(quads)
    questions = [question for quad in quads for question in quad][:limit]
    rng.shuffle(questions)
    return questions


def lexical_overlap(name: str, text: str) -> bool:
    """Whether a name and a text share a word, or a stem of it, of four letters or more.

    >>> lexical_overlap("textwrap.dedent", "Remove leading whitespace."), lexical_overlap("shutil.copyfileobj", "Copy data.")
    (False, True)
    """
    whole = name.lower()
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name) if len(part) >= 4]
    words = [word for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _COMMON_WORDS]
    return any(word in whole for word in words) or any(part in word for part in parts for word in words)


def _is_asked(found: ApiObject) -> bool:
    if _NOT_ASKED.match(found.module) or in_stdlib_val(group_of(found.module)) or found.last_name in ("main", "test"):
        return False
    return found.qualname.split(".")[0] in _listed()[found.module]


@lru_cache(maxsize=1)
def _listed() -> dict[str, frozenset[str]]:
    return {module.name: module.listed for module in api_modules()}


def _normal(sentence: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", sentence.lower()).strip()


@lru_cache(maxsize=1)
def _homes_by_name() -> dict[str, frozenset[str]]:
    homes: dict[str, set[str]] = defaultdict(set)
    for module in api_modules():
        for name in module.names:
            homes[name].add(module.name)
    return {name: frozenset(modules) for name, modules in homes.items()}


def _modules_with(name: str) -> frozenset[str]:
    return _homes_by_name().get(name, frozenset())


def _module_subjects(split: Split) -> list[ApiObject]:
    """Functions and classes whose bare name is public in one module only."""
    return [
        found
        for found in subjects(split)
        if found.kind != "method"
        and found.module != "builtins"
        and len(_modules_with(found.qualname)) == 1
        and "." not in found.qualname
    ]


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
    return frozenset(_module_subjects(split))


def _letter_conversation(question: MultipleChoice) -> Conversation:
    letter = LETTERS[question.answer]
    id = f"stdlib_qa/{question.id}"
    return exchange(
        "stdlib_qa", id, (render_multiple_choice(question), letter), subject=question.subject, answer=letter
    )


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
