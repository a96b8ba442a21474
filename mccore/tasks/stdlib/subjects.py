"""What questions about the standard library are about: objects of its modules, by split.

Subjects come only from modules in the corpus's training split: a held-out question then asks for a fact the model has read but
was never asked about, and no validation text reaches a model by way of its conversations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache

from mccore.data.conversation import Split, split_of
from mccore.data.corpora.stdlib.api import ApiObject, api_modules
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val

# Widgets, parsers' plumbing and implementation modules: hundreds of methods that nobody asks about by name.
_NOT_ASKED = re.compile(
    r"^(tkinter|turtle|pydoc|pickletools|pdb|bdb|smtpd|site|opcode|pyclbr|pstats|wsgiref|sre_\w+|xml\.(dom|sax)\b.*"
    r"|asyncio\.\w+|unittest\.(?!mock)\w+|json\.\w+|ctypes\.macholib.*|curses\.\w+|logging\.config"
    r"|email\.(base64mime|quoprimime|feedparser|generator|headerregistry|errors|contentmanager|mime\..*)"
    r"|importlib\.(readers|simple|resources\.\w+)|concurrent\.futures\.\w+|unittest\.\w+_\w+"
    r"|multiprocessing\.(?!connection|managers|pool|shared_memory|sharedctypes)\w+)(\..*)?$"
)
_COMMON_WORDS = frozenset(
    {"from", "into", "that", "this", "with", "when", "then", "each", "used", "have", "will", "only"}
)


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


def lexical_overlap(name: str, text: str) -> bool:
    """Whether a name and a text share a word, or a stem of it, of four letters or more.

    >>> lexical_overlap("textwrap.dedent", "Remove leading whitespace."), lexical_overlap("shutil.copyfileobj", "Copy data.")
    (False, True)
    """
    whole = name.lower()
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name) if len(part) >= 4]
    words = [word for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _COMMON_WORDS]
    return any(word in whole for word in words) or any(part in word for part in parts for word in words)


def module_subjects(split: Split) -> list[ApiObject]:
    """Functions and classes of `split` whose bare name is public in one module only."""
    return [
        found
        for found in subjects(split)
        if found.kind != "method"
        and found.module != "builtins"
        and len(_modules_with(found.qualname)) == 1
        and "." not in found.qualname
    ]


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
